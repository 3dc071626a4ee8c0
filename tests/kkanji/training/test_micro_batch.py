from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from kkanji.models import Network, create_model
from kkanji.training import micro_batch as memory
from shards import InputError


def test_saved_bytes_of_a_known_network() -> None:
    """A linear layer keeps its input, a sigmoid its output: 4,096 and 10 floats an image."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4096, 10), nn.Sigmoid())
    assert memory.saved_bytes_per_image(model) == 4 * (4096 + 10)


def test_activations_grow_with_the_network() -> None:
    small = memory.saved_bytes_per_image(create_model("kkanji_efficientnet_b0", 10))
    large = memory.saved_bytes_per_image(create_model("kkanji_efficientnet_b3", 10))
    assert 2_000_000 < small < large < 60_000_000


def test_the_model_is_left_as_it_was() -> None:
    model = create_model("kkanji_efficientnet_fused_s", 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory.derive_micro_batch(model, torch.device("cpu"), 50_000)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bounds() -> None:
    model = create_model("kkanji_efficientnet_fused_s", 10)
    assert memory.derive_micro_batch(model, torch.device("cpu"), 50_000) == memory.CPU_LARGEST
    assert memory.derive_micro_batch(model, torch.device("cpu"), 3) == 3


@pytest.fixture
def cramped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes networks run out of memory with more than so many images, after their first layers."""

    def limit(most: int) -> None:
        whole = Network.forward_head

        def forward_head(self: Network, maps: torch.Tensor) -> torch.Tensor:
            if len(maps) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            head: torch.Tensor = whole(self, maps)
            return head

        monkeypatch.setattr(Network, "forward_head", forward_head)

    return limit


def test_trials_leave_everything_as_it_was(cramped: Callable[[int], None]) -> None:
    """Failing half way or succeeding: weights, batch statistics, gradients, random numbers, mode."""
    cramped(5)
    model = create_model("kkanji_efficientnet_fused_s", 10).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.warns(UserWarning, match="step with 16 images; --micro-batch is 4"):
        assert memory.resolve_micro_batch(model, Accelerator(cpu=True), 16) == 4
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_a_step_that_fits_is_not_reported() -> None:
    """Warnings are errors here."""
    model = create_model("kkanji_efficientnet_fused_s", 10)
    assert memory.resolve_micro_batch(model, Accelerator(cpu=True), 3) == 3


def test_not_even_one_image(cramped: Callable[[int], None]) -> None:
    cramped(0)
    model = create_model("kkanji_efficientnet_fused_s", 10)
    with pytest.raises(InputError, match="no memory for a step with one image"):
        memory.resolve_micro_batch(model, Accelerator(cpu=True), 8)


@pytest.mark.gpu
def test_a_real_device_runs_out() -> None:
    """More images than any device holds: what fits is trained on without an error, and nothing stays taken."""
    accelerator = Accelerator()
    model = create_model("kkanji_efficientnet_fused_s", 10).to(accelerator.device)
    free = memory.free_bytes(accelerator.device)
    wanted = int(2 * free / memory.saved_bytes_per_image(model))
    with pytest.warns(UserWarning, match="--micro-batch is"):
        assert 0 < memory.resolve_micro_batch(model, accelerator, wanted) < wanted
    assert memory.free_bytes(accelerator.device) > 0.9 * free
