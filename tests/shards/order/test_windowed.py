"""The order for streaming: exact like the full one, with few shards in use at a time, each brought once an epoch."""

import hashlib
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards import Plan, WindowedOrder
from shards.order.sequential import cut

# sha256 of two epochs of shards of 30, 50, 20 and 40 samples, seed 0, by (window, lanes)
GOLDEN = {
    (1, 1): "0c97371fc4dc160f8a25199bd99d35aeffc4ab7cc63c51d359a62a4dc9a542d9",
    (2, 1): "9ab236313440f7637732501cd60bc56c58bb7acf4816de655134e1a1e4f43864",
    (3, 2): "fdf6ceb4ec3dcdeef1d00885179fef5135c20158e173d81767ac97562465c11c",
}
sizes_of_shards = st.lists(st.integers(0, 25), min_size=1, max_size=10).filter(any)
orders = st.builds(
    WindowedOrder,
    sizes_of_shards,
    seed=st.integers(0, 1000),
    window=st.integers(1, 6),
    lanes=st.integers(1, 6),
    batch_size=st.integers(1, 50),
)


def shards_of(order: WindowedOrder, numbers: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.searchsorted(np.cumsum(order.sizes), numbers, side="right")


@given(order=orders, epoch=st.integers(0, 5))
def test_an_epoch_has_every_sample_once(order: WindowedOrder, epoch: int) -> None:
    numbers = order.at(epoch * order.samples, (epoch + 1) * order.samples)
    assert np.array_equal(np.sort(numbers), np.arange(order.samples))


@given(order=orders, data=st.data())
def test_a_stretch_is_its_parts_joined(order: WindowedOrder, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, 3 * order.samples), min_size=2, max_size=6)))
    joined = np.concatenate([order.at(start, stop) for start, stop in pairwise(cuts)])
    assert np.array_equal(order.at(cuts[0], cuts[-1]), joined)


@pytest.mark.parametrize(("window", "lanes"), list(GOLDEN))
def test_the_order_never_changes(window: int, lanes: int) -> None:
    order = WindowedOrder([30, 50, 20, 40], seed=0, window=window, lanes=lanes, batch_size=35)
    digest = hashlib.sha256(order.at(0, 280).astype("<i8").tobytes()).hexdigest()
    assert digest == GOLDEN[window, lanes]


@given(sizes=sizes_of_shards, seed=st.integers(0, 1000), window=st.integers(1, 6))
def test_a_shard_is_in_use_once_an_epoch_and_few_are_at_a_time(sizes: list[int], seed: int, window: int) -> None:
    order = WindowedOrder(sizes, seed=seed, window=window)
    shards = shards_of(order, order.at(0, order.samples))
    spans = [(where.min(), where.max()) for where in (np.flatnonzero(shards == s) for s in set(shards.tolist()))]
    in_use = [sum(first <= position <= last for first, last in spans) for position in range(order.samples)]
    assert max(in_use) <= 2 * window - 1  # around the border of two groups, from the first use to the last


@given(shards=st.integers(1, 8), window=st.integers(1, 6), part=st.integers(1, 9), seed=st.integers(0, 1000))
def test_a_group_mixes_a_window_of_shards_and_the_next_one_changes_one(
    shards: int, window: int, part: int, seed: int
) -> None:
    """With shards of one size, which all deal `part` samples to each of their groups, the borders of groups follow."""
    window = min(window, shards)
    order = WindowedOrder([window * part] * shards, seed=seed, window=window)
    mixed = [min(group + 1, window, shards + window - 1 - group) for group in range(shards + window - 1)]
    borders = np.cumsum([0, *mixed]) * part
    numbers = order.at(0, order.samples)
    groups = [set(shards_of(order, numbers[start:stop]).tolist()) for start, stop in pairwise(borders)]
    assert [len(group) for group in groups] == mixed
    assert all(len(after - before) <= 1 and len(before - after) <= 1 for before, after in pairwise(groups))


@given(order=orders, steps=st.integers(1, 12), nodes=st.integers(1, 6))
def test_lanes_have_shards_of_their_own(order: WindowedOrder, steps: int, nodes: int) -> None:
    """With ranks that divide the lanes, two ranks share a shard only where a lane ends inside one."""
    lanes, batch = order.lanes, 24
    if lanes % nodes:
        nodes = 1
    order = WindowedOrder(order.sizes, seed=order.seed, window=order.window, lanes=lanes, batch_size=batch)
    plan = Plan(samples=order.samples, epochs=1, batch_size=batch)
    full = [step for step in range(min(steps, plan.steps)) if plan.batch(step)[1] - plan.batch(step)[0] == batch]
    shards = [
        {shard for step in full for shard in shards_of(order, order.at(*plan.rank_span(step, rank, nodes))).tolist()}
        for rank in range(nodes)
    ]
    shared = sum(map(len, shards)) - len(set().union(*shards))
    assert shared <= nodes - 1


@pytest.mark.parametrize("batch", [40, 49])  # with 49, an epoch ends inside a batch
def test_a_node_reads_the_same_shards_in_every_epoch_and_of_any_seed(batch: int) -> None:
    """All but the shards where the nodes' lanes meet: a batch takes as much of both."""
    shards: list[set[int]] = [set(), set()]
    for seed in range(3):
        order = WindowedOrder([30] * 20, seed=seed, window=2, lanes=4, batch_size=batch)
        plan = Plan(samples=order.samples, epochs=7, batch_size=batch)
        for step in range(plan.steps - 1):  # the last batch is shorter
            for node in range(2):
                shards[node] |= set(shards_of(order, order.at(*plan.rank_span(step, node, 2))).tolist())
    assert shards[0] | shards[1] == set(range(20))
    assert shards[0] & shards[1] <= {9, 10}


def test_the_mix_is_even() -> None:
    """In the middle of an epoch, a batch draws on all shards of the window alike."""
    order = WindowedOrder([1000] * 40, seed=0, window=8)
    starts = range(10_000, 30_000, 1000)
    counts = [np.unique(shards_of(order, order.at(start, start + 1000)), return_counts=True)[1] for start in starts]
    assert all(len(count) in (8, 9) for count in counts)
    assert np.mean([count.max() for count in counts]) < 170  # 125 expected of each


def test_epochs_and_seeds_differ() -> None:
    orders = [WindowedOrder([50] * 6, seed=seed, window=2) for seed in range(10)]
    seen = {order.at(epoch * 300, epoch * 300 + 300).tobytes() for order in orders for epoch in range(10)}
    assert len(seen) == 100
    firsts = {int(shards_of(orders[0], orders[0].at(epoch * 300, epoch * 300 + 1))[0]) for epoch in range(40)}
    assert firsts == set(range(6))


@pytest.mark.parametrize("size", [25_000, 6_442_000])  # 38.8 million and 10 thousand million samples
def test_memory_does_not_depend_on_the_samples(size: int) -> None:
    order = WindowedOrder([size] * 1552, seed=0)
    tracemalloc.start()
    for start in (0, order.samples // 2, order.samples - 5000):
        assert len({*order.at(start, start + 5000).tolist()}) == 5000
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("wrong", [{"sizes": []}, {"sizes": [0, 0]}, {"window": 0}, {"lanes": 0}, {"batch_size": 0}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        WindowedOrder(**{"sizes": [3], "seed": 0, **wrong})


def test_cut_is_what_lanes_and_shares_have_in_common() -> None:
    """Why a rank's share holds whole lanes: both cut the same batch, and one number divides the other."""
    for batch in range(1, 60):
        for lanes, ranks in ((4, 2), (6, 3), (8, 8), (8, 1)):
            each = lanes // ranks
            for rank in range(ranks):
                first, last = cut(0, batch, rank * each, lanes)[0], cut(0, batch, rank * each + each - 1, lanes)[1]
                assert (first, last) == cut(0, batch, rank, ranks)
