import pytest
import torch

from kkanji.models import create_model
from kkanji.training.meter import peak_flops, training_flops


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
