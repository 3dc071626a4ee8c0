"""Balanced draws: every class its number, every sample of a class as often as another, in each epoch and over all."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import BalancedOrder
from shards.order.balanced import draws_per_class

# sha256 of three epochs of nine draws of seven classes, seed 0
GOLDEN = "55dbcf4dc459e33f2150592e7357b449a2e13abe622f09120ea7d02b18313c20"


@st.composite
def orders(draw: st.DrawFn) -> BalancedOrder:
    labels = np.array(draw(st.lists(st.integers(0, 6), min_size=1, max_size=60)), np.int32)
    counts = np.bincount(labels, minlength=8)
    draws = np.array([draw(st.integers(0, 30)) if count else 0 for count in counts], np.int64)
    draws[labels[0]] += 1
    return BalancedOrder(labels=labels, draws=draws, seed=draw(st.integers(0, 100)))


@given(order=orders(), epochs=st.integers(1, 5))
def test_draws_are_even_in_each_epoch_and_over_all(order: BalancedOrder, epochs: int) -> None:
    total = np.zeros(len(order.labels), int)
    for epoch in range(epochs):
        numbers = order.at(epoch * order.samples, (epoch + 1) * order.samples)
        drawn = np.bincount(order.labels[numbers], minlength=len(order.draws))
        assert np.array_equal(drawn, order.draws)
        used = np.bincount(numbers, minlength=len(order.labels))
        total += used
        for label in set(order.labels.tolist()):
            for counts in (used[order.labels == label], total[order.labels == label]):
                assert counts.max() - counts.min() <= 1


@given(order=orders(), data=st.data())
def test_a_stretch_is_its_parts_joined(order: BalancedOrder, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, 3 * order.samples), min_size=2, max_size=6)))
    joined = np.concatenate([order.at(start, stop) for start, stop in pairwise(cuts)])
    assert np.array_equal(order.at(cuts[0], cuts[-1]), joined)


def test_the_published_balance() -> None:
    """10,000 draws of each class, from a class of one image and from one of more than it shows in an epoch."""
    labels = np.repeat(np.array([0, 1, 2], np.int32), [1, 300, 17_680])
    order = BalancedOrder(labels=labels, draws=draws_per_class([1, 300, 17_680], 10_000), seed=0)
    first, second = order.at(0, 30_000), order.at(30_000, 60_000)
    assert np.bincount(labels[first]).tolist() == [10_000] * 3
    assert np.unique(first).size == 1 + 300 + 10_000
    assert np.unique(np.concatenate([first, second])).size == len(labels)


def test_the_order_never_changes() -> None:
    labels = np.arange(50, dtype=np.int32) % 7
    order = BalancedOrder(labels=labels, draws=draws_per_class(np.bincount(labels).tolist(), 9), seed=0)
    assert hashlib.sha256(order.at(0, 189).astype("<i8").tobytes()).hexdigest() == GOLDEN


def test_classes_are_shuffled() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32), 20)
    order = BalancedOrder(labels=labels, draws=draws_per_class([20] * 10, 100), seed=0)
    drawn = labels[order.at(0, 1000)]
    assert np.bincount(drawn[:200]).min() > 5
    assert not np.array_equal(drawn, labels[order.at(1000, 2000)])


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(0.0, [0, 5, 5, 5]), (0.5, [0, 2, 5, 8]), (1.0, [0, 1, 4, 10])],
)
def test_draws_in_proportion_to_a_power_of_the_samples(exponent: float, expected: list[int]) -> None:
    assert draws_per_class([0, 1, 4, 9], 5, exponent=exponent).tolist() == expected


def test_a_class_with_samples_is_sampled_at_least_once() -> None:
    assert draws_per_class([1, 1_000_000], 10, exponent=1.0).tolist() == [1, 20]


@pytest.mark.parametrize(
    ("labels", "draws", "message"),
    [
        ([0], [0], "expected at least one"),
        ([0], [-1, 2], "none below 0"),
        ([0], [1, 1], "no samples"),
        ([2], [1], "beyond"),
    ],
)
def test_draws_that_cannot_be_are_refused(labels: list[int], draws: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedOrder(labels=np.array(labels, np.int32), draws=np.array(draws, np.int64), seed=0)
