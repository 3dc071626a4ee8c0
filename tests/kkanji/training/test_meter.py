from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from kkanji.training import meter as metering
from kkanji.training.meter import Meter


def test_all_images_count_and_only_the_time_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint between two log lines: the rate once was of all images by the time since the checkpoint."""
    clock, fetched = [0.0], [0]
    monkeypatch.setattr(metering, "perf_counter", lambda: clock[0])
    loader = SimpleNamespace(wait_s=0.0)
    reader = SimpleNamespace(traffic=lambda: {"fetched_bytes": fetched[0]})
    meter = Meter(torch.device("cpu"), cast(Any, loader), cast(Any, reader))

    def train(images: int) -> None:
        clock[0], loader.wait_s, fetched[0] = clock[0] + 2.0, loader.wait_s + 0.5, fetched[0] + 3_000_000
        meter.add(torch.eye(8)[:images], torch.zeros(images, dtype=torch.int64), torch.tensor(4.0))

    train(6)
    with meter.left_out():
        clock[0], fetched[0] = clock[0] + 100, fetched[0] + 50_000_000
    train(2)
    values = meter.read(Accelerator(cpu=True))
    assert values["images_per_s"] == 2.0
    assert values["wait_share"] == 0.25
    assert values["fetched_mb_per_s"] == 1.5
    assert (values["loss"], values["top1"]) == (1.0, 2 / 8)
    train(4)
    assert meter.read(Accelerator(cpu=True))["images_per_s"] == 2.0
