from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from timm.optim import muon
from torch import Tensor, nn

from kkanji import checkpoint
from kkanji.classes import sorted_class_map
from kkanji.config import OptimizerName
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer

NAMES: tuple[OptimizerName, ...] = get_args(OptimizerName)


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("kkanji_efficientnet_fused_s", 6).to(memory_format=torch.channels_last).eval()


def loss_of(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 1, 32, 32, generator=generator)
    return nn.functional.cross_entropy(model(images), torch.arange(8) % 6)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return float(loss_of(model).detach())


@pytest.mark.parametrize("name", NAMES)
def test_each_learns(name: OptimizerName) -> None:
    model = network()
    before = float(loss_of(model).detach())
    optimizer = create_optimizer(model, name, lr=1e-2 if name in ("sgd", "lamb") else 1e-3, weight_decay=0.01)
    assert train(model, optimizer, 4) < before


@pytest.mark.parametrize("name", NAMES)
def test_each_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(name: OptimizerName, tmp_path: Path) -> None:
    model = network()
    optimizer = create_optimizer(model, name, lr=1e-3, weight_decay=0.01)
    train(model, optimizer, 2)
    classes = sorted_class_map(range(0x4E00, 0x4E06))
    path = checkpoint.save(tmp_path, 2, model=model, optimizer=optimizer, state={}, classes=classes, best=True)
    expected = train(model, optimizer, 2)
    again = network()
    optimizer = create_optimizer(again, name, lr=1e-3, weight_decay=0.01)
    checkpoint.load_training(path, again, None)
    checkpoint.load_optimizer(path, optimizer)
    assert train(again, optimizer, 2) == expected


@pytest.mark.parametrize("name", NAMES)
def test_norms_and_biases_are_not_decayed(name: OptimizerName) -> None:
    model = network()
    groups = create_optimizer(model, name, lr=1e-3, weight_decay=0.5).param_groups
    for group in groups:
        vectors = [parameter.ndim < 2 for parameter in group["params"]]
        assert all(vectors) if group["weight_decay"] == 0 else not any(vectors)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("able", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_orthogonalises_in_what_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, able: bool, expected: torch.dtype
) -> None:
    seen: set[torch.dtype] = set()
    orthogonalise = muon.zeropower_via_newtonschulz

    def spy(*args: Any, **options: Any) -> Tensor:
        result: Tensor = orthogonalise(*args, **options)
        seen.add(result.dtype)
        return result

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", spy)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    model = network()
    train(model, create_optimizer(model, "muon", lr=1e-3, weight_decay=0.01), 1)
    assert seen == {expected}
    assert muon.zeropower_via_newtonschulz is spy, "as it was before the step"
