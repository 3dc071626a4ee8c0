from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from kkanji.models import create_model
from kkanji.training import meter as metering
from kkanji.training.meter import Meter, peak_flops, training_flops


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
    assert values["wait_fraction"] == 0.25
    assert values["fetched_mb_per_s"] == 1.5
    assert (values["loss"], values["top1"]) == (1.0, 2 / 8)
    train(4)
    assert meter.read(Accelerator(cpu=True))["images_per_s"] == 2.0


def test_b0_needs_what_is_known_of_it() -> None:
    """67 million multiply-adds at 64 px with the sixth stage at stride 1, forward; three times that to train."""
    model = create_model("kkanji_efficientnet_b0", 3832)
    assert training_flops(model) == pytest.approx(3 * 2 * 67e6, rel=0.02)
    assert model.training


def test_a_quarter_of_the_pixels_takes_a_quarter_of_the_operations() -> None:
    model = create_model("kkanji_efficientnet_b0", 10)
    assert training_flops(model, 32) == pytest.approx(training_flops(model) / 4, rel=0.1)


def test_a_cpu_is_measured() -> None:
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert peak is not None
    assert 1e8 < peak < 1e14


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA A100-SXM4-40GB", torch.bfloat16, 312e12),
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA H100 NVL", torch.bfloat16, 835e12),
        ("NVIDIA H200 NVL", torch.bfloat16, 836e12),
        ("NVIDIA GH200 480GB", torch.bfloat16, 990e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16, None),
        ("NVIDIA H200", torch.float32, None),
    ],
)
def test_a_gpu_is_known_by_its_exact_name(
    name: str, dtype: torch.dtype, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chips of one name differ by their boards, and a part of one is no whole one."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda", 0), dtype) == expected
