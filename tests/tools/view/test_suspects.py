"""Suspects: the misreadings that a model is surest of, as a picture and as a list that `split` leaves out."""

import csv
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kkanji.data.training_set import open_set
from kkanji.evaluation.predictions import Predictions
from shards import InputError
from tools.commands.pack import pack
from tools.commands.show import show
from tools.commands.split import split
from tools.ingest.originals import read_originals, read_split
from tools.view.contact_sheet import MARGIN, TILE_WIDTH

COUNTS = {"U+4E00": 20, "U+4E01": 20, "U+4F86": 20, "U+6765": 20}  # the last two are forms of one character
ONE, TWO, FORM, OTHER_FORM = range(4)


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    return originals_folder(COUNTS)


def evaluated(
    data: Path, output: Path, wrong: dict[int, tuple[int, float]], changes: Mapping[str, Any] | None = None
) -> Path:
    """An evaluation of split val. wrong: for places in it, the class predicted instead and its probability."""
    opened = open_set(str(data))
    labels = torch.from_numpy(opened.split("val").labels().astype(np.int32))
    predicted = torch.stack([labels, *(torch.full_like(labels, -1) for _ in range(4))], dim=1)
    probability = torch.zeros(len(labels), 5)
    probability[:, 0], own = 0.8, torch.full((len(labels),), 0.8)
    for place, (number, value) in wrong.items():
        predicted[place, 0], probability[place, 0], own[place] = number, value, (1 - value) / 2
    backwards = torch.arange(len(labels)).flip(0)  # several ranks give them in any order
    columns = (backwards, *(each[backwards] for each in (labels, predicted, probability, own)))
    output.mkdir()
    Predictions(**dict(zip(Predictions.__slots__, columns, strict=True))).save(output / "predictions.npz")
    summary = {
        "data": opened.manifest.identity(),
        "split": "val",
        "classes": len(COUNTS),
        "disjoint": True,
        **(changes or {}),
    }
    (output / "evaluation.json").write_text(json.dumps(summary))
    return output


def places_of(data: Path, number: int) -> list[int]:
    return np.flatnonzero(open_set(str(data)).split("val").labels() == number).tolist()


def test_suspects_are_shown_listed_and_left_out_of_training(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    pack(folder, output=data)
    one, two, form = places_of(data, ONE)[0], places_of(data, TWO)[1], places_of(data, FORM)[0]
    wrong = {one: (TWO, 0.7), two: (FORM, 0.9), form: (OTHER_FORM, 0.99)}
    evaluation = evaluated(data, tmp_path / "evaluation", wrong)
    picture = tmp_path / "suspects.png"
    show(str(data), kind="suspects", split="val", evaluation=evaluation, output=picture)

    reader = open_set(str(data)).split("val")
    with picture.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [f"{reader.sources()[place]:016x}" for place in (two, one)]  # the surest first, and no other form
    assert [row["id"] for row in rows] == ids
    assert [(row["label"], row["predicted"]) for row in rows] == [("U+4E01", "U+4F86"), ("U+4E00", "U+4E01")]
    assert [row["probability"] for row in rows] == ["0.9000", "0.7000"]
    assert [row["label_probability"] for row in rows] == ["0.0500", "0.1500"]
    pixels = np.asarray(Image.open(picture))
    for column, expected in enumerate(reader.collect(np.array([two, one])).images):
        left = column * TILE_WIDTH + MARGIN
        assert (pixels[MARGIN : MARGIN + 64, left : left + 64] == expected).all()

    split(folder, folds=5, fold=1, leave_out=(picture.with_suffix(".csv"),), overwrite=True)
    combined = read_originals(folder)
    divided = read_split(combined)
    assert divided.facts["left_out"] == 2
    everywhere = np.concatenate([divided.rows(name) for name in ("train", "val", "test")])
    assert {f"{number:016x}" for number in np.delete(combined.ids, everywhere).tolist()} == set(ids)


def test_suspects_stay_where_models_are_measured(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    pack(folder, output=data)
    evaluation = evaluated(data, tmp_path / "evaluation", {places_of(data, ONE)[0]: (TWO, 0.7)})
    show(str(data), kind="suspects", split="val", evaluation=evaluation, output=tmp_path / "suspects.png")
    before = (folder / "split.csv").read_bytes()
    split(folder, leave_out=(tmp_path / "suspects.csv",), overwrite=True)  # the same division: it is in val
    assert (folder / "split.csv").read_bytes() == before
    assert read_split(read_originals(folder)).facts["left_out"] == 0


def test_the_count_limits_the_suspects(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    pack(folder, output=data)
    wrong = {place: (TWO, 0.5 + place / 100) for place in places_of(data, ONE)}
    evaluation = evaluated(data, tmp_path / "evaluation", wrong)
    show(str(data), kind="suspects", split="val", evaluation=evaluation, count=2, output=tmp_path / "s.png")
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 3


def test_a_list_is_replaced_with_its_picture_only(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    pack(folder, output=data)
    evaluation = evaluated(data, tmp_path / "evaluation", {places_of(data, ONE)[0]: (TWO, 0.7)})
    suspects = partial(show, str(data), kind="suspects", split="val", evaluation=evaluation)
    (tmp_path / "s.csv").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"s\.csv: already exists; choose another --output"):
            suspects(output=tmp_path / "s.png", overwrite=overwrite)
    assert (tmp_path / "s.csv").read_text() == "mine" and not (tmp_path / "s.png").exists()
    suspects(output=tmp_path / "t.png")
    suspects(output=tmp_path / "t.png", overwrite=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "other"}, r"data other, expected .* evaluate this set"),
        ({"split": "test"}, r"split test, expected val"),
        ({"classes": 5}, r"classes 5, expected 4"),
        ({"overlapping": True}, r"trained on these images; evaluate one that was not"),
    ],
)
def test_another_evaluation_is_refused(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    data = tmp_path / "set"
    pack(folder, output=data)
    evaluation = evaluated(data, tmp_path / "evaluation", {places_of(data, ONE)[0]: (TWO, 0.7)}, changes)
    with pytest.raises(InputError, match=message):
        show(str(data), kind="suspects", split="val", evaluation=evaluation, output=tmp_path / "s.png")
    assert not list(tmp_path.glob("s.*"))


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    pack(folder, output=data)
    evaluation = evaluated(data, tmp_path / "evaluation", {})
    output = tmp_path / "s.png"
    with pytest.raises(InputError, match=r"expected --split NAME, and --evaluation FOLDER"):
        show(str(data), kind="suspects", evaluation=evaluation, output=output)
    with pytest.raises(InputError, match=r"originals; give the shard set that was evaluated"):
        show(str(folder), kind="suspects", split="val", evaluation=evaluation, output=output)
    with pytest.raises(InputError, match=r"evaluation\.json: .*; write it with `kkanji evaluate`"):
        show(str(data), kind="suspects", split="val", evaluation=folder, output=output)
    with pytest.raises(InputError, match=r"nothing is suspect"):
        show(str(data), kind="suspects", split="val", evaluation=evaluation, output=output)


def test_a_wrong_list_is_refused(folder: Path, tmp_path: Path) -> None:
    path, head = tmp_path / "list.csv", "id,label,predicted,probability,label_probability\n"
    before = (folder / "split.csv").read_bytes()
    for content, message in (
        (head + "0123456789abcdef,U+4E00,U+4E01,0.9,0.1\n", r"1 of 1 ids are not in .*, for example 0123456789abcdef"),
        (head + "nonsense,U+4E00,U+4E01,0.9,0.1\n", r"1 of 1 ids are not in .*, for example nonsense"),
        ("id\n", r"columns \['id'\], expected .*expected a list made by `kkanji show --kind suspects`"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            split(folder, leave_out=(path,), overwrite=True)
    with pytest.raises(InputError, match=r"No such file.*expected a list made by"):
        split(folder, leave_out=(tmp_path / "none.csv",), overwrite=True)
    assert (folder / "split.csv").read_bytes() == before
