"""The measures of benchmark unknown, and a run of it with a made score."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.unknown import unknown as module
from benchmarks.unknown.unknown import auroc, coverage, unknown
from kkanji.inference.predict import Guess, Judged
from kkanji.neighbours.made import KINDS
from shards import InputError


def test_auroc_is_the_probability_of_a_higher_score() -> None:
    known = np.array([0.1, 0.2, 0.3, 0.4])
    assert auroc(known, np.array([0.5, 0.6])) == 1 and auroc(known, np.array([0.0])) == 0
    assert auroc(known, np.array([0.25])) == 0.5 and auroc(known, np.array([0.2])) == 0.375


def test_coverage_is_what_is_accepted_while_99_in_100_are_right() -> None:
    confidence, right = np.linspace(1, 0, 1000), np.ones(1000, np.bool_)
    right[500:520] = False  # 5 mistakes may be among the first 504, as 499 of them are right
    assert coverage(confidence, right, np.zeros(0), 1) == pytest.approx(0.505, abs=0.001)
    assert coverage(confidence, np.ones(1000, np.bool_), np.zeros(0), 1) == 1
    assert coverage(confidence, np.ones(1000, np.bool_), np.full(100, 0.5), 1) == pytest.approx(0.5, abs=0.001)
    assert coverage(confidence, np.zeros(1000, np.bool_), np.zeros(0), 1) == 0


class Judge:
    """Takes whatever has gray in it for no character."""

    def __init__(self, *_: object) -> None:
        self.judge: object = SimpleNamespace(threshold=0.5)

    def judged(self, images: NDArray[np.uint8], top: int) -> list[Judged]:
        gray = ((images > 32) & (images < 224)).mean(axis=(1, 2)).tolist()
        guess = Guess(character="一", label="U+4E00", probability=0.9)
        return [Judged((guess,) * top, value, "gray" if value > 0.2 else None) for value in gray]


def test_a_row_for_each_kind(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Predictor", Judge)
    np.savez(tmp_path / "kana.npz", np.random.default_rng(0).integers(0, 255, (30, 28, 28), np.uint8))
    output = tmp_path / "result.json"
    unknown(tmp_path, data=str(tiny_set), kana=tmp_path / "kana.npz", images=10, made=5, output=output)
    result = json.loads(output.read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["characters", *KINDS, "kana"]
    assert rows["kana"]["images"] == 10 and rows["noise"]["images"] == 5 and rows["characters"]["AUROC"] is None
    assert rows["kana"]["marked"] == 1 and rows["kana"]["AUROC"] > 0.9
    assert [row["name"] for row in result["accepted"]] == ["by probability", "by probability x known"]
    monkeypatch.setattr(Judge, "__init__", lambda self, *_: setattr(self, "judge", None))
    with pytest.raises(InputError, match="has no score for unknown images; make it with `kkanji neighbours`"):
        unknown(tmp_path, data=str(tiny_set), output=output)
