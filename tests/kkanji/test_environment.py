"""What the hardware can do, told by its own description."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from kkanji.environment import choose_kernels, has_bfloat16, precision_name, warn_of_emulation

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
