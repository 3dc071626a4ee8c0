"""Where images stay does not change what a run computes, and all ranks keep them in the same place."""

import json
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kkanji.config import TrainConfig, train_config
from kkanji.data.training_set import open_set, resident_bytes
from kkanji.training import agreement
from kkanji.training.agreement import agree
from kkanji.training.trainer import train

MODEL = "kkanji_efficientnet_fused_s"


def config_of(data: Path, output: Path, residence: str) -> TrainConfig:
    """Two epochs, of small images."""
    small: dict[str, Any] = {"epochs": 2, "batch_size": 54, "micro_batch": 27, "start_size": 8, "full_size_at": 1.0}
    return train_config(data=str(data), output=output, residence=residence, model=MODEL, **small)


def evaluations(run: Path) -> list[tuple[float, float]]:
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [(entry["loss"], entry["top1"]) for entry in entries if entry["event"] == "evaluation"]


@pytest.mark.filterwarnings("ignore:torch uses 1 thread")
def test_a_run_computes_the_same_wherever_its_images_stay(tiny_set: Path, tmp_path: Path) -> None:
    """Two epochs, each evaluated; the second of them reads no shard."""
    for residence in ("host", "device"):
        train(config_of(tiny_set, tmp_path / residence, residence), open_set(tiny_set))
    host, device = ((tmp_path / name / "checkpoints/last/model.safetensors") for name in ("host", "device"))
    assert device.read_bytes() == host.read_bytes()
    assert evaluations(tmp_path / "device") == evaluations(tmp_path / "host")
    assert len(evaluations(tmp_path / "host")) == 2
    settled = json.loads((tmp_path / "device" / "config.json").read_text())["config"]["dataset"]["residence"]
    assert settled == "device"


@pytest.mark.parametrize("short_of", [0, 1])
def test_the_rank_with_the_least_memory_decides_for_all(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_of: int
) -> None:
    """It says so if the images do not fit there; here has room for them."""
    least = 2 * resident_bytes(open_set(tiny_set)) - short_of

    def free(_: object) -> int:
        return 1 << 40

    def with_another_rank(action: Callable[[], Any]) -> list[Any]:
        here = action()
        return [here, least if isinstance(action, partial) and action.func is free else here]

    monkeypatch.setattr(agreement, "free_bytes", free)
    monkeypatch.setattr(agreement, "together", with_another_rank)
    fits = (
        nullcontext() if not short_of else pytest.warns(UserWarning, match="a device has free; they stay on the host")
    )
    with ExitStack() as held, fits:
        agreed = agree(config_of(tiny_set, tmp_path, "device"), open_set(tiny_set), held)
    assert agreed.config.dataset.residence == ("host" if short_of else "device")
