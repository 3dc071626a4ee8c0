"""When evaluated images count as apart from those that were trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kkanji.data import open_set
from kkanji.lineage import independence, trained_apart

DATA = {"lineage": "known", "identity": "a"}
VALIDATED = {"split": "val", "lineage": "known", "data": "a"}


@pytest.mark.parametrize(
    ("data", "evaluation", "verdict"),
    [
        ({}, {}, "proven"),
        ({}, {"split": "train"}, "trained on"),
        ({}, {"data": "b"}, "unknown"),
        ({}, {"data": "b", "apart": True}, "proven"),
        ({"lineage": "unknown: it began with weights"}, {}, "unknown"),
        ({"lineage": "unknown: it began with weights"}, {"apart": True}, "proven"),
        ({}, {"lineage": "unknown"}, "unknown"),
        ({}, {"lineage": "unknown", "apart": True}, "unknown"),
    ],
)
def test_the_verdict(data: dict[str, str], evaluation: dict[str, Any], verdict: str) -> None:
    assert independence(DATA | data, VALIDATED | evaluation) == verdict


def state(tiny_set: Path, **config: str | list[str]) -> dict[str, Any]:
    return {"config": {"data": str(tiny_set)} | config, "data": open_set(tiny_set).manifest.identity()}


def test_originals_are_compared_with_all_training_sets_behind_the_weights(tiny_set: Path, tmp_path: Path) -> None:
    data = open_set(tiny_set)
    trained, validated = (data.split(name).sources() for name in ("train", "val"))
    assert trained_apart(state(tiny_set), validated)
    assert not trained_apart(state(tiny_set), np.concatenate([validated, trained[-1:]]))
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    for begun in (state(tiny_set, init=str(earlier)), state(tiny_set, teachers=[str(earlier)])):
        (earlier / "state.json").write_text(json.dumps(state(tiny_set)))
        assert trained_apart(begun, validated)
        (earlier / "state.json").write_text(json.dumps(state(tiny_set) | {"data": "another version"}))
        assert not trained_apart(begun, validated)


def test_without_the_sets_nothing_is_claimed(tiny_set: Path, tmp_path: Path) -> None:
    validated = open_set(tiny_set).split("val").sources()
    assert not trained_apart(state(tiny_set) | {"config": {}}, validated)
    assert not trained_apart(state(tiny_set, init=str(tmp_path / "gone")), validated)
    moved = state(tiny_set)
    moved["config"]["data"] = str(tmp_path / "gone")
    assert not trained_apart(moved, validated)
