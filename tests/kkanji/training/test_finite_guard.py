"""The first gradient that is not finite ends a run; finite ones change nothing."""

import signal
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from kkanji import pixels
from kkanji.config import train_config
from kkanji.data.training_set import open_set
from kkanji.training import trainer
from kkanji.training.finite_guard import FiniteGuard
from shards import InputError


def train(scales: list[float], device: str = "cpu") -> tuple[FiniteGuard, Tensor]:
    """The guard and the weights after steps of a linear layer; scales: factors of their losses."""
    model = nn.Linear(3, 2, device=device)
    optimizer = AdamW(model.parameters(), lr=0.1)
    guard = FiniteGuard(model.parameters(), torch.device(device), lambda step: f"samples of {step}")
    for step, scale in enumerate(scales):
        optimizer.zero_grad()
        (model(torch.ones(1, 3, device=device)).sum() * scale).backward()
        guard.check(step)
        optimizer.step()
    return guard, model.weight


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_gradient_that_is_not_finite_is_named(bad: float) -> None:
    """Though the steps after it are not finite either, and the host asks later."""
    guard, _ = train([1.0, bad, 1.0, 1.0])
    found = "step 2: the gradient is not finite, for samples of 1; nothing after step 1 was saved; begin a new run with"
    with pytest.raises(InputError, match=found):
        guard.raise_if_bad()


def test_finite_gradients_pass() -> None:
    guard, weights = train([1.0, -2.0, 1e-30, 1e15, 0.0])
    guard.raise_if_bad()
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(("most", "expected"), [(0.0, 5.0), (2.0, 2.0), (50.0, 5.0)])
def test_a_gradient_that_is_too_long_is_shortened_over_all_weights_together(most: float, expected: float) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])  # the third was not used
    FiniteGuard(parameters, torch.device("cpu"), str, most=most).check(0)
    gradient = torch.cat([each.grad for each in parameters if each.grad is not None])
    assert torch.allclose(gradient, torch.tensor([0.6, 0.8]) * expected)


def test_only_the_question_waits_for_the_device() -> None:
    """A tensor of this device has no value that the host could read."""
    guard, _ = train([1.0, float("nan")], device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        guard.raise_if_bad()


@pytest.mark.filterwarnings("ignore:torch uses 1 thread")
@pytest.mark.parametrize("why", ["a checkpoint is due", "a signal came"])
def test_nothing_that_follows_from_it_is_saved(
    why: str, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the next log line."""
    batches = count(1)

    def spoilt(images: Tensor) -> Tensor:
        batch = next(batches)
        if batch == 3 and why == "a signal came":
            signal.raise_signal(signal.SIGTERM)
        return pixels.normalise(images) * (float("nan") if batch == 2 else 1.0)

    monkeypatch.setattr(trainer, "normalise", spoilt)
    options = {"model": "kkanji_efficientnet_fused_s", "batch_size": 20, "augment": 0, "start_size": 16}
    config = train_config(
        data=str(tiny_set),
        output=tmp_path,
        log_every=99,
        save_every=3 if why == "a checkpoint is due" else 0,
        **options,
    )
    with pytest.raises(InputError, match="step 2: the gradient is not finite"):
        trainer.train(config, open_set(tiny_set))
    assert (tmp_path / "not-finite.json").exists() and not (tmp_path / "checkpoints").exists()
