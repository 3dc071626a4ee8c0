"""Balanced draws: every class its number, every sample of a class as often as another, in each epoch and over all."""

import hashlib
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import BalancedOrder
from shards.order.balanced import count_labels, draws_per_class, sort_by_class
from tests.shards.order.labelled import balanced, labels_of

# sha256 of three epochs of nine draws of seven classes, seed 0
GOLDEN = "55dbcf4dc459e33f2150592e7357b449a2e13abe622f09120ea7d02b18313c20"


@st.composite
def orders(draw: st.DrawFn) -> BalancedOrder:
    labels = np.array(draw(st.lists(st.integers(0, 6), min_size=1, max_size=60)), np.int32)
    counts = np.bincount(labels, minlength=8)
    draws = np.array([draw(st.integers(0, 30)) if count else 0 for count in counts], np.int64)
    draws[labels[0]] += 1
    return balanced(labels, draws, draw(st.integers(0, 100)))


@given(order=orders(), epochs=st.integers(1, 5))
def test_draws_are_even_in_each_epoch_and_over_all(order: BalancedOrder, epochs: int) -> None:
    labels = labels_of(order)
    total = np.zeros(len(labels), int)
    for epoch in range(epochs):
        numbers = order.at(epoch * order.samples, (epoch + 1) * order.samples)
        drawn = np.bincount(labels[numbers], minlength=len(order.draws))
        assert np.array_equal(drawn, order.draws)
        used = np.bincount(numbers, minlength=len(labels))
        total += used
        for label in set(labels.tolist()):
            for counts in (used[labels == label], total[labels == label]):
                assert counts.max() - counts.min() <= 1


@given(order=orders(), data=st.data())
def test_a_stretch_is_its_parts_joined(order: BalancedOrder, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, 3 * order.samples), min_size=2, max_size=6)))
    joined = np.concatenate([order.at(start, stop) for start, stop in pairwise(cuts)])
    assert np.array_equal(order.at(cuts[0], cuts[-1]), joined)


def test_the_published_balance() -> None:
    """10,000 draws of each class, from a class of one image and from one of more than it shows in an epoch."""
    labels = np.repeat(np.array([0, 1, 2], np.int32), [1, 300, 17_680])
    order = balanced(labels, draws_per_class([1, 300, 17_680], 10_000))
    first, second = order.at(0, 30_000), order.at(30_000, 60_000)
    assert np.bincount(labels[first]).tolist() == [10_000] * 3
    assert np.unique(first).size == 1 + 300 + 10_000
    assert np.unique(np.concatenate([first, second])).size == len(labels)


def test_the_order_never_changes() -> None:
    labels = np.arange(50, dtype=np.int32) % 7
    order = balanced(labels, draws_per_class(np.bincount(labels).tolist(), 9))
    assert hashlib.sha256(order.at(0, 189).astype("<i8").tobytes()).hexdigest() == GOLDEN


def test_classes_are_shuffled() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32), 20)
    order = balanced(labels, draws_per_class([20] * 10, 100))
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
        ([2], [1], r"sample 0 has label 2, expected 0\.\.0"),
        ([0, -1], [1], r"sample 1 has label -1, expected 0\.\.0"),
    ],
)
def test_draws_that_cannot_be_are_refused(labels: list[int], draws: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced(np.array(labels, np.int32), np.array(draws, np.int64))


def test_counts_of_other_samples_are_refused() -> None:
    numbers, counts = np.arange(3, dtype=np.uint32), np.array([4])
    with pytest.raises(ValueError, match="3 samples by class, but counts of 4"):
        BalancedOrder(by_class=numbers, counts=counts, draws=counts, seed=0)
    with pytest.raises(ValueError, match="beyond the draws"):
        BalancedOrder(by_class=numbers, counts=np.array([2, 1]), draws=counts, seed=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_samples_by_class_are_a_stable_sort_of_four_bytes_each(dtype: type[np.integer]) -> None:
    labels = np.random.default_rng(0).integers(0, 200, 5000).astype(dtype)
    counts = count_labels(labels, 211)
    assert np.array_equal(counts, np.bincount(labels, minlength=211))
    by_class = sort_by_class(labels, counts)
    assert by_class.dtype == np.uint32 and np.array_equal(by_class, np.argsort(labels, kind="stable"))


def test_an_order_holds_nothing_but_the_column_it_was_given() -> None:
    """Ranks of a node map one file, so copies would cost each of them 4 bytes a sample."""
    labels = np.zeros(1 << 20, np.uint8)
    order = balanced(labels, np.array([100]))
    tracemalloc.start()
    order.at(0, 100)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < len(labels) // 8
