import pytest
import torch
from torch import nn
from torch.optim import AdamW

from kkanji.training.finite_guard import FiniteGuard
from shards import InputError


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_ends_the_run_before_the_weights_are_touched(bad: float) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer = AdamW(model.parameters(), fused=True)
    guard = FiniteGuard(optimizer, torch.device("cpu"), lambda step: f"samples of {step}")
    (model(torch.ones(1, 3)).sum() * bad).backward()
    with pytest.raises(
        InputError, match="step 8: the gradient is not finite, for samples of 7; the weights are those of step 7"
    ):
        guard.check(7)
    assert torch.equal(model.weight, before)


def test_a_fused_optimizer_skips_the_step_by_itself() -> None:
    """As on a GPU, where the host learns of it later: neither that step nor a later one changes the weights."""
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    optimizer = AdamW(model.parameters(), fused=True)
    guard = FiniteGuard(optimizer, torch.device("cpu"), lambda step: f"samples of {step}")
    guard._skips = True
    for step, scale in enumerate((float("nan"), 1.0)):
        optimizer.zero_grad()
        (model(torch.ones(1, 3)).sum() * scale).backward()
        guard.check(step)
        optimizer.step()
    assert torch.equal(model.weight, before)
    with pytest.raises(InputError, match="step 1: the gradient is not finite"):
        guard.raise_if_bad()


def test_finite_gradients_pass() -> None:
    model = nn.Linear(3, 2)
    optimizer = AdamW(model.parameters(), fused=True)
    guard = FiniteGuard(optimizer, torch.device("cpu"), lambda step: f"samples of {step}")
    model(torch.ones(1, 3)).sum().backward()
    guard.check(0)
    guard.raise_if_bad()
