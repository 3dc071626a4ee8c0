import pytest
import torch
from torch import nn

from kkanji.training.ema import RISE, WeightAverage


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_weight_halves_in_a_half_life() -> None:
    trained = model()
    average = WeightAverage(trained, half_life=1000)
    with torch.no_grad():
        trained[0].weight.fill_(1.0)  # type: ignore[operator]
        average.model[0].weight.fill_(0.0)  # type: ignore[index]
    for step in range(10):
        average.update(100, 10**9 + 100 * step)
    assert average.model[0].weight.flatten().tolist() == pytest.approx([0.5] * 6)  # type: ignore[index]


def test_early_weights_are_soon_forgotten() -> None:
    trained = model()
    average = WeightAverage(trained, half_life=1e9)
    with torch.no_grad():
        trained[0].weight.fill_(1.0)  # type: ignore[operator]
        average.model[0].weight.fill_(0.0)  # type: ignore[index]
    average.update(100, 100)
    assert average.model[0].weight.flatten().tolist() == pytest.approx([1 - 1 / (1 + RISE)] * 6)  # type: ignore[index]


def test_batch_statistics_are_averaged_and_counters_are_not() -> None:
    trained = model()
    average = WeightAverage(trained, half_life=1e-9)
    trained(torch.randn(8, 2))
    average.update(8, 10**9)
    (of_average, of_model) = (dict(each.named_buffers())["1.running_mean"] for each in (average.model, trained))
    assert torch.equal(of_average, of_model)
    assert int(average.model[1].num_batches_tracked) == 0  # type: ignore[index]


def test_the_average_is_a_model_of_its_own() -> None:
    trained = model()
    average = WeightAverage(trained, half_life=1.0)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_an_average_of_tensors_that_the_model_no_longer_has_is_noticed() -> None:
    """Moving a model to its device replaces buffers, as `Accelerator.prepare` does on CPU ranks."""
    trained = model()
    average = WeightAverage(trained, half_life=1.0)
    assert average.follows(trained)
    trained[1].running_mean = trained[1].running_mean.clone()  # type: ignore[operator]
    assert not average.follows(trained)
