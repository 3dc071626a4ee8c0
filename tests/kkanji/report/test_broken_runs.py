"""Files of a run that are missing, damaged or do not fit together."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kkanji.report import write_report
from shards.errors import InputError
from tests.kkanji.report.made_run import CHARACTERS, CONFUSIONS, make_predictions, make_run, save_predictions

MAKERS = [
    ("config.json", "kkanji train"),
    ("log.jsonl", "kkanji train"),
    ("evaluation.json", "kkanji evaluate"),
    ("predictions.npz", "kkanji evaluate"),
]


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path: Path, name: str, maker: str) -> None:
    run = make_run(tmp_path / "run")
    (run.folder / name).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(name)}: no such file; .*{maker}"):
        run.write()


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_a_damaged_file_is_named_with_the_command_that_makes_it(tmp_path: Path, name: str, maker: str) -> None:
    run = make_run(tmp_path / "run")
    (run.folder / name).write_bytes(b"PK\x03\x04 no longer what it was\n")
    with pytest.raises(InputError, match=rf"{re.escape(name)}.*{maker}"):
        run.write()


@pytest.mark.parametrize(
    ("name", "key", "value", "found"),
    [
        ("config.json", "data", None, "data is None, expected dict"),
        ("evaluation.json", "top1", "high", "top1 is 'high', expected a number"),
        ("evaluation.json", "images", 7, "288 images, but 7 in evaluation.json"),
        ("evaluation.json", "bins", [1], "a bin is 1, expected an object"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, key: str, value: object, found: str) -> None:
    run = make_run(tmp_path / "run")
    run.change(name, lambda record: record.update({key: value}))
    with pytest.raises(InputError, match=re.escape(found)):
        run.write()


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.change("evaluation.json", lambda record: record.pop("f1_macro"))
    with pytest.raises(InputError, match=r"evaluation\.json: no field 'f1_macro'"):
        run.write()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"label": np.full(288, 24, np.int32)}, "a class outside of 0 to 23"),
        ({"label": np.zeros(287, np.int32)}, "arrays of shapes"),
        ({"label_probability": np.full(288, np.nan, np.float32)}, "not a number"),
        ({"position": np.array([{}] * 288)}, "allow_pickle"),
    ],
)
def test_wrong_predictions_are_refused(tmp_path: Path, changes: dict[str, NDArray[Any]], found: str) -> None:
    run = make_run(tmp_path / "run")
    save_predictions(run.folder, make_predictions(CONFUSIONS) | changes)
    with pytest.raises(InputError, match=rf"predictions\.npz: .*{found}"):
        run.write()


def test_a_class_map_of_another_data_set_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.characters = CHARACTERS[:-1]
    with pytest.raises(InputError, match="24 classes, but the class map has 23 characters"):
        run.write()


def test_images_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    counts = np.ones(len(CHARACTERS), np.int64)
    with pytest.raises(ValueError, match=r"images_of gave float64 of shape \(1, 2\)"):
        write_report(
            run.folder,
            characters=CHARACTERS,
            training_counts=counts,
            images_of=lambda _positions: np.zeros((1, 2)),  # type: ignore[arg-type, return-value]
        )
