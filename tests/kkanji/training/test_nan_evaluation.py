"""An evaluation whose loss is not a number."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kkanji.config import train_config
from kkanji.data.training_set import open_set
from kkanji.evaluation.metrics import summarise
from kkanji.training import saving
from kkanji.training.trainer import train

MODEL = "kkanji_efficientnet_fused_s"


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


@pytest.mark.filterwarnings("ignore:torch uses 1 thread")
def test_it_is_null_in_the_log_and_never_the_best(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is, and says that all were right; the second one is the best."""
    left = [{"loss": math.nan, "top1": 1.0}, {}]
    monkeypatch.setattr(saving, "summarise", lambda *arguments: summarise(*arguments) | left.pop(0))
    config = train_config(data=str(tiny_set), output=tmp_path, model=MODEL, epochs=2, batch_size=54, augment=0)
    train(config, open_set(tiny_set))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    entries: list[dict[str, Any]] = [json.loads(line, parse_constant=refuse) for line in lines]
    first, second = (entry for entry in entries if entry["event"] == "evaluation")
    assert first["loss"] is None and second["loss"] > 0
    assert [entry["best"] for entry in entries if entry["event"] == "checkpoint"] == [False, True]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-000000004"
