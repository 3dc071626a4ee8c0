from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import timm.optim
import timm.optim.muon as timms_muon
import torch
from torch import Tensor, nn

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.config import OptimizerName
from kkanji.training import optimizers
from kkanji.training.optimizers import create_optimizer, orthogonalise

NAMES: tuple[OptimizerName, ...] = get_args(OptimizerName)


def network() -> nn.Module:
    """Every kind of weight: dense and depthwise convolutions, matrices that widen and narrow, norms, a classifier."""
    torch.manual_seed(0)
    layers = OrderedDict(
        stem=nn.Conv2d(1, 8, 3, padding=1, bias=False),
        widening=nn.Conv2d(8, 24, 1, bias=False),
        norm=nn.BatchNorm2d(24),
        depthwise=nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
        narrowing=nn.Conv2d(24, 8, 1),
        dense=nn.Conv2d(8, 16, 3),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        classifier=nn.Linear(16, 6),
    )
    return nn.Sequential(layers).to(memory_format=torch.channels_last)


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
    classes = ClassMap.of(range(0x4E00, 0x4E06))
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

    def spy(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        seen.add(dtype)
        return orthogonalise(matrices, dtype)

    monkeypatch.setattr(optimizers, "orthogonalise", spy)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    model = network()
    train(model, create_optimizer(model, "muon", lr=1e-3, weight_decay=0.01), 1)
    assert seen == {expected}


def test_muon_computes_what_timms_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers in float32, but for the order in which products are summed."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    exact = partial(timms_muon.zeropower_via_newtonschulz, dtype=torch.float32)  # otherwise bfloat16
    monkeypatch.setattr(timms_muon, "zeropower_via_newtonschulz", exact)
    ours, other = network(), network()
    optimizer = create_optimizer(ours, "muon", lr=1e-3, weight_decay=0.03)
    groups = [
        {"params": [parameter for parameter in other.parameters() if parameter.ndim > 1], "weight_decay": 0.03},
        {"params": [parameter for parameter in other.parameters() if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    classifier = [parameter for name, parameter in other.named_parameters() if name == "classifier.weight"]
    groups[0]["params"] = [parameter for parameter in groups[0]["params"] if parameter is not classifier[0]]  # type: ignore[attr-defined]
    groups.append({"params": classifier, "weight_decay": 0.03, "use_fallback": True})
    expected = timm.optim.Muon(groups, lr=1e-3, nesterov=True, betas=(0.9, 0.999))
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        for own, reference in zip(ours.parameters(), other.parameters(), strict=True):
            own.grad = 0.01 * torch.randn(own.shape, generator=generator)
            reference.grad = own.grad.clone()
        optimizer.step()
        expected.step()
    for (name, own), reference in zip(ours.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own, reference, rtol=0, atol=2e-7, msg=name)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 20), (2, 20, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = torch.stack(orthogonalise(list(matrices), torch.float32))
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert 0.7 < values.min() and values.max() < 1.3
    assert torch.equal(orthogonalise([matrices[0]], torch.float32)[0], found[0]), "matrices of a stack are independent"


def test_tall_and_wide_matrices_are_orthogonalised_together() -> None:
    """A network has as many that widen as that narrow: half the launches."""
    wide = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0))
    first, second, third = orthogonalise([wide[0], wide[1].mT, wide[1]], torch.float32)
    assert first.shape == (8, 20) and second.shape == (20, 8)
    assert torch.equal(second.mT, third)
