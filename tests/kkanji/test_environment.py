"""What the hardware can do, told by its own description."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from kkanji.environment import (
    choose_kernels,
    has_bfloat16,
    loader_threads,
    precision_name,
    stay_near,
    warn_of_emulation,
)

CPU = torch.device("cpu")
ABLE = ({"avx512_bf16": True, "avx2": True}, {"amx_bf16": True}, {"architecture": "aarch64", "bf16": True})
UNABLE: tuple[dict[str, Any], ...] = ({"avx512_bf16": False, "avx512_f": True}, {"bf16": False}, {})


def accelerator(mixed_precision: str, *, is_main_process: bool = True) -> Accelerator:
    named = SimpleNamespace(mixed_precision=mixed_precision, is_main_process=is_main_process, device=CPU)
    return cast("Accelerator", named)


@pytest.mark.parametrize("capabilities", ABLE)
def test_a_processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bfloat16(CPU)
    warn_of_emulation(accelerator("bf16"))  # a warning would be an error


@pytest.mark.parametrize("capabilities", UNABLE)
def test_a_processor_without_is_reported(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert not has_bfloat16(CPU)
    with pytest.warns(UserWarning, match=r"no bfloat16 .* give --precision float32"):
        warn_of_emulation(accelerator("bf16"))
    warn_of_emulation(accelerator("no"))
    warn_of_emulation(accelerator("bf16", is_main_process=False))


@pytest.mark.parametrize(("able", "name"), [(True, "bf16"), (False, "no")])
def test_auto_takes_bfloat16_from_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, able: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: able or including_emulation)
    assert precision_name("auto") == name
    assert [precision_name("float32"), precision_name("bfloat16")] == ["no", "bf16"]


def test_auto_is_float32_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision_name("auto") == "no"


def test_float32_is_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.14 has cuDNN round to TF32 by default, and cuBLAS not."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    choose_kernels(benchmark=True)
    assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("text", "ranks", "expected"),
    [
        ("0-2,8-10", 8, {1, 2, 8}),
        ("3\n", 8, {3}),
        ("0-2,8-10", 1, None),  # alone, it may use all
        ("20-30", 8, None),  # the scheduler gave it none of them
        (None, 8, None),  # a container that does not show them
    ],
)
def test_each_of_several_ranks_stays_near_its_gpu(
    text: str | None, ranks: int, expected: set[int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has its share of all cores for its loader, not of these."""
    bound: list[set[int]] = []
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: place)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: bound.append(set(cores)))
    monkeypatch.setattr("kkanji.environment.PCI_DEVICES", tmp_path)
    monkeypatch.setattr("kkanji.environment.CORES", frozenset([1, 2, 3, 8, *range(40, 68)]))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    if text is not None:
        (tmp_path / "0000:1b:00.0").mkdir()
        (tmp_path / "0000:1b:00.0" / "local_cpulist").write_text(text)
    stay_near(torch.device("cuda", 0))
    stay_near(CPU)
    assert bound == ([expected] if expected else [])
    assert loader_threads() == (4 if ranks == 8 else 16)
