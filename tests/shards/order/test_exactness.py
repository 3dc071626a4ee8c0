"""What every order promises: nothing missed, nothing doubled, equal steps, the same global batches on any number of
ranks, and the same tail after a stop at any position."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards import BalancedOrder, Order, Plan, SampleOrder, WindowedOrder
from tests.shards.order.labelled import balanced, labels_of

KINDS = ("full", "windowed", "balanced")
EPOCHS = 3


@st.composite
def cases(draw: st.DrawFn, kind: str) -> tuple[Order, Counter[int], Plan]:
    """An order over shards of random sizes, how often an epoch has each sample (0: some number), and a plan over it."""
    sizes = draw(st.lists(st.integers(0, 15), min_size=1, max_size=8).filter(any))
    seed, batch_size = draw(st.integers(0, 1 << 40)), draw(st.integers(1, 40))
    order: Order = SampleOrder(samples=sum(sizes), seed=seed)
    if kind == "windowed":
        window, lanes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
        order = WindowedOrder(sizes, seed=seed, window=window, lanes=lanes, batch_size=batch_size)
    if kind == "balanced":
        labels = np.arange(sum(sizes), dtype=np.int32) % draw(st.integers(1, 5))
        draws = np.full(labels.max() + 1, draw(st.integers(1, 12)))
        order = balanced(labels, draws, seed)
    plan = Plan(samples=order.samples, epochs=EPOCHS, batch_size=batch_size)
    return order, counts_of(order), plan


def counts_of(order: Order) -> Counter[int]:
    """How often all epochs together have each sample, by what the order is for."""
    if not isinstance(order, BalancedOrder):
        return Counter(dict.fromkeys(range(order.samples), EPOCHS))
    counts: Counter[int] = Counter()
    labels = labels_of(order)
    for label, draws in enumerate(order.draws.tolist()):
        members = np.flatnonzero(labels == label).tolist()
        counts.update(members[turn % len(members)] for turn in range(EPOCHS * draws))
    return counts


def batches(order: Order, plan: Plan, ranks: int, first: int = 0) -> list[NDArray[np.int64]]:
    """The global batches that so many ranks see together, from a step on."""
    shares = ([plan.rank_span(step, rank, ranks) for rank in range(ranks)] for step in range(first, plan.steps))
    return [np.concatenate([order.at(*share) for share in step]) for step in shares]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data(), ranks=st.integers(1, 16))
def test_nothing_is_missed_or_doubled(kind: str, data: st.DataObject, ranks: int) -> None:
    order, counts, plan = data.draw(cases(kind))
    assert Counter(np.concatenate(batches(order, plan, ranks)).tolist()) == counts


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data(), ranks=st.integers(2, 16))
def test_ranks_do_not_change_global_batches_nor_steps(kind: str, data: st.DataObject, ranks: int) -> None:
    order, _, plan = data.draw(cases(kind))
    alone, together = batches(order, plan, 1), batches(order, plan, ranks)
    assert len(alone) == len(together) == plan.steps
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(data=st.data(), ranks=st.integers(1, 16))
def test_a_stop_at_any_position_has_the_same_tail(kind: str, data: st.DataObject, ranks: int) -> None:
    """Of the stream, and, at any step, of the batches on another number of ranks."""
    order, _, plan = data.draw(cases(kind))
    whole = order.at(0, plan.total)
    for position in range(plan.total):
        assert np.array_equal(order.at(position, min(position + 5, plan.total)), whole[position : position + 5])
    for step in range(plan.steps):
        tail = np.concatenate(batches(order, plan, ranks, step)[:2])
        assert np.array_equal(tail, whole[plan.batch(step)[0] :][: len(tail)])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_an_epoch_differs_from_the_next(kind: str, data: st.DataObject) -> None:
    """The same multiset, or for draws as many, in another order."""
    order, _, _ = data.draw(cases(kind))
    epochs = [order.at(epoch * order.samples, (epoch + 1) * order.samples) for epoch in range(8)]
    if kind != "balanced":
        assert len({np.sort(epoch).tobytes() for epoch in epochs}) == 1
    if len({*epochs[0].tolist()}) > 4:
        assert len({epoch.tobytes() for epoch in epochs}) > 1
