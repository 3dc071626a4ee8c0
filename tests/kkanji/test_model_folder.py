"""Folders that a run is to learn from, checked before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kkanji.config import TrainConfig, train_config
from kkanji.model_folder import check_sources, check_state
from shards import InputError


def folder(path: Path, **config: Any) -> Path:
    path.mkdir()
    (path / "state.json").write_text(json.dumps({"config": config}))
    return path


def config(**options: Any) -> TrainConfig:
    return train_config(data="x", output=Path("y"), **options)


def test_weights_of_another_network_are_told_with_the_options_that_fit(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", network={"model": "kkanji_efficientnet_fused_s", "head": "cosine"})
    with pytest.raises(
        InputError, match=r"weights of kkanji_efficientnet_fused_s with head cosine.*give --model (\w+) --head (\w+)$"
    ):
        check_sources(config(init=path))
    check_sources(config(init=path, model="kkanji_efficientnet_fused_s", head="cosine"))
    early = folder(tmp_path / "early", model="kkanji_efficientnet_b0")
    check_sources(config(init=early))


@pytest.mark.parametrize("option", ["init", "teachers"])
def test_a_folder_that_is_not_there_or_damaged(tmp_path: Path, option: str) -> None:
    damaged = folder(tmp_path / "damaged", model=5)
    for path, message in ((tmp_path / "absent", f"--{option} .*absent: no such checkpoint"), (damaged, "is not text")):
        with pytest.raises(InputError, match=message):
            check_sources(config(**{option: (path,) if option == "teachers" else path}))


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("stretch", [], "stretch is not numbers by their names"),
        ("stretch", {"step": -1}, "stretch is not"),
        ("stretch", {"rate": "fast"}, "stretch is not"),
        ("stretch", {"rate": float("nan")}, "stretch is not"),
        ("stretch", {"other": 1}, "stretch is not"),
        ("extensions", {}, "extensions is not steps, epochs and changes"),
        ("extensions", [{"step": 1, "epoch": 1.0}], "extensions is not"),
        ("extensions", [{"step": 1, "epoch": 1.0, "changes": {"lr": [1]}}], "extensions is not"),
        ("run", 5, "run is not text"),
    ],
)
def test_what_a_checkpoint_says_of_its_course_is_checked(field: str, value: Any, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        check_state({field: value})
    check_state({"stretch": {"step": 5, "rate": 0.1}, "extensions": [{"step": 5, "epoch": 2.0, "changes": {}}]})


def test_a_resumed_run_needs_its_teachers_and_not_what_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    resumed = config(init=tmp_path / "absent").with_options(output=tmp_path / "run", resume=True)
    check_sources(resumed)
    with pytest.raises(InputError, match=r"--init .*absent: no such checkpoint"):
        check_sources(resumed.with_options(output=tmp_path / "not-begun"))
    with pytest.raises(InputError, match=r"--teachers .*absent: no such checkpoint"):
        check_sources(resumed.with_options(teachers=(tmp_path / "absent",)))


def test_it_needs_no_torch() -> None:
    code = "import sys, kkanji.model_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
