import torch
from torch import nn

from kkanji import memory
from kkanji.models import create_model


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
