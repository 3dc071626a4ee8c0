"""A gradient that is not finite ends a run before it reaches the weights; a finite one changes nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from kkanji.training import finite_guard
from kkanji.training.finite_guard import FiniteGuard
from shards import InputError

CPU = torch.device("cpu")


def train(scales: list[float], *, guarded: bool = True) -> tuple[list[Tensor], FiniteGuard]:
    """The weights before and after each step of a linear layer; scales: factors of the loss."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = AdamW(model.parameters(), lr=0.1, fused=True)
    guard = FiniteGuard(optimizer, CPU, lambda step: f"samples of {step}")
    weights = [model.weight.detach().clone()]
    for step, scale in enumerate(scales):
        optimizer.zero_grad()
        (model(torch.ones(1, 3)).sum() * scale).backward()
        if guarded:
            guard.check(step)
        optimizer.step()
        weights.append(model.weight.detach().clone())
    return weights, guard


@pytest.fixture(params=["the host waits", "the optimizer skips"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU; or as on a GPU, where the host learns of a bad step later."""
    monkeypatch.setattr(finite_guard, "skips_bad_steps", lambda *_: request.param == "the optimizer skips")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_run_before_the_weights_are_touched(bad: float) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    guard = FiniteGuard(AdamW(model.parameters(), fused=True), CPU, lambda step: f"samples of {step}")
    (model(torch.ones(1, 3)).sum() * bad).backward()
    with pytest.raises(
        InputError, match="step 8: the gradient is not finite, for samples of 7; the weights are those of step 7"
    ):
        guard.check(7)
    assert torch.equal(model.weight, before)


def test_a_fused_optimizer_skips_the_bad_step_and_all_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_guard, "skips_bad_steps", lambda *_: True)
    (_, good, *later), guard = train([1.0, float("nan"), 1.0])
    assert all(torch.equal(weights, good) for weights in later)
    with pytest.raises(InputError, match="step 2: the gradient is not finite"):
        guard.raise_if_bad()


@pytest.mark.usefixtures("way")
def test_finite_gradients_pass() -> None:
    scales = [1.0, -2.0, 1e-30, 1e15, 0.0]
    found, guard = train(scales)
    expected, _ = train(scales, guarded=False)
    guard.raise_if_bad()
    assert all(torch.equal(with_guard, without) for with_guard, without in zip(found, expected, strict=True))
    assert not torch.equal(found[0], found[-1])


@pytest.mark.parametrize(
    ("device", "fused", "skips"), [("cpu", True, False), ("cuda", True, True), ("cuda", False, False)]
)
def test_only_a_fused_optimizer_on_a_gpu_skips_by_itself(device: str, fused: bool, skips: bool) -> None:
    optimizer = AdamW(nn.Linear(3, 2).parameters(), fused=fused)
    assert finite_guard.skips_bad_steps(optimizer, torch.device(device)) is skips
