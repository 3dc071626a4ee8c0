from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kkanji.training.averages import RISE, BatchStatistics, WeightAverage
from kkanji.training.schedule import Rank, part_of
from shards import Plan


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


# ----------------------------------------------------------------------------------------------------------------------
# Batch statistics


class Together:
    """Stands for Accelerate on several ranks, which are threads here."""

    def __init__(self, ranks: int) -> None:
        self.num_processes = ranks
        self._barrier = Barrier(ranks)
        self._given: list[Tensor] = []

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        self._given.append(values)
        self._barrier.wait()
        total = torch.stack(self._given).sum(dim=0)
        if self._barrier.wait() == 0:
            self._given.clear()
        self._barrier.wait()
        return total


def normalising() -> nn.Sequential:
    """Layers of two momenta, as networks of timm's may have."""
    return nn.Sequential(nn.BatchNorm1d(2, momentum=0.1), nn.BatchNorm1d(2, momentum=0.3))


def trained(plan: Plan, ranks: int, images: Tensor) -> list[dict[str, Tensor]]:
    """Buffers of all ranks' models after they have seen all global batches, in micro-batches of 3 images."""
    accelerator: Any = Together(ranks)

    def train(rank: int) -> dict[str, Tensor]:
        layer = normalising()
        statistics = BatchStatistics(layer, accelerator)
        for step in range(plan.steps):
            part = part_of(plan, step, Rank(index=rank, count=ranks), 3)
            statistics.begin(part)
            for first, last in part.spans:
                layer(images[first:last])
            statistics.end(part)
        return dict(layer.named_buffers())

    with ThreadPoolExecutor(ranks) as threads:
        return list(threads.map(train, range(ranks)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_all_ranks_have_the_statistics_of_one_process(ranks: int) -> None:
    """Of 3 batches of 12 micro-batches and one of 2, in which most ranks are idle."""
    images = torch.randn(114, 2, generator=torch.Generator().manual_seed(0)) * 5 + 3
    plan = Plan(samples=114, epochs=1, batch_size=36)
    alone = normalising()
    for first in range(0, 114, 3):
        alone(images[first : first + 3])
    found = trained(plan, ranks, images)
    for name, value in alone.named_buffers():
        assert all(torch.equal(each[name], found[0][name]) for each in found)
        assert torch.allclose(found[0][name], value, rtol=1e-6)


def test_a_network_without_batch_normalisation_has_none_to_exchange() -> None:
    accelerator: Any = Together(2)
    statistics = BatchStatistics(nn.Linear(2, 2), accelerator)
    part = part_of(Plan(samples=4, epochs=1, batch_size=4), 0, Rank(index=1, count=2), 1)
    statistics.begin(part)
    statistics.end(part)  # it would wait for the other rank
    assert not statistics.tensors


def test_an_average_without_momentum_is_refused() -> None:
    accelerator: Any = Together(1)
    with pytest.raises(ValueError, match="momentum None; expected a number"):
        BatchStatistics(nn.Sequential(nn.BatchNorm1d(2, momentum=None)), accelerator)
