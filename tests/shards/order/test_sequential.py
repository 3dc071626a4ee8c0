"""The order of samples: a permutation for every size, fixed for ever, and the same for any number of ranks."""

import hashlib
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards import Plan, SampleOrder
from shards.order import sequential as order_module
from shards.order.permutation import mix, permute
from shards.order.sequential import by_epoch, cut

FULL = 38_800_000
# sha256 of the first 10,000 numbers of epochs 0, 1, 2 for seed 0: a change would break every run that is to be resumed
GOLDEN = {
    101: (
        "7c5a8b073355497fb2b43ce4ce302c2d321a688279dfd05be356fdc0b99df3d0",
        "a6d4201fba71d2d372bc5711478bcce7091a31c7fd314efddcece3263e9f270c",
        "8990b3528b9c6fd96dee0cd7391877a5068c4fa91fe644d64de503478e6abfc1",
    ),
    6_250: (
        "909c2239f0e9496719d978675f0d758a183501f59a6bb6ee102b43a46d75af42",
        "8eee4847171bef44ff9d17d6097ac9066215d15b0894e0ca0a174a4227c2636a",
        "605f8f32c1e71e057d36345964cca9ca10ce43fcf58a191160cdfb9afc4f7a18",
    ),
    FULL: (
        "335fa5553d4f1c60ed698fc721d37c695cf14c72ab633e63833f18886f990d2f",
        "125dd68d299a4d20b983ab153a3efcd003655e02706a81959bd53c1d9987fd56",
        "86580e1da6f2ad0fba31339c7a375079e0ca399ad15ad514ea3f9ccfb2505e7a",
    ),
}


def digest(numbers: NDArray[np.int64]) -> str:
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()


def is_permutation(numbers: NDArray[np.integer], size: int) -> bool:
    return np.array_equal(np.sort(numbers), np.arange(size))


def positions(size: int) -> NDArray[np.uint64]:
    return np.arange(size, dtype=np.uint64)


def test_a_permutation_for_every_small_size() -> None:
    for size in range(1, 601):
        assert is_permutation(permute(positions(size), size, key=size), size), size


@settings(max_examples=40)
@given(size=st.integers(1, 200_000), key=st.integers(0, (1 << 64) - 1))
def test_a_permutation_for_larger_sizes(size: int, key: int) -> None:
    assert is_permutation(permute(positions(size), size, key), size)


@pytest.mark.parametrize("power", range(1, 18))
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_permutation_around_powers_of_two(power: int, more: int) -> None:
    size = (1 << power) + more
    assert is_permutation(permute(positions(size), size, key=7), size)


@pytest.mark.parametrize("size", list(GOLDEN))
def test_the_order_never_changes(size: int) -> None:
    order, count = SampleOrder(samples=size, seed=0), min(size, 10_000)
    assert tuple(digest(order.at(start, start + count)) for start in (0, size, 2 * size)) == GOLDEN[size]


def test_seeds_and_epochs_give_different_orders() -> None:
    starts = range(0, 30 * 500, 500)
    orders = {
        digest(SampleOrder(samples=500, seed=seed).at(start, start + 500)) for seed in range(30) for start in starts
    }
    assert len(orders) == 900


def test_an_order_is_not_shifted_or_reversed_from_epoch_to_epoch() -> None:
    order = SampleOrder(samples=1000, seed=3)
    first, second = order.at(0, 1000), order.at(1000, 2000)
    matches = [np.count_nonzero(np.roll(first, shift) == second) for shift in range(1000)]
    assert max(matches) < 12  # a random pair agrees in one place on average
    assert np.count_nonzero(first[::-1] == second) < 12


@given(size=st.integers(1, 300), seed=st.integers(), data=st.data(), shuffle=st.booleans())
def test_a_stretch_is_its_parts_joined(size: int, seed: int, data: st.DataObject, shuffle: bool) -> None:
    order = SampleOrder(samples=size, seed=seed, shuffle=shuffle)
    cuts = sorted(data.draw(st.lists(st.integers(0, 4 * size), min_size=2, max_size=6)))
    joined = np.concatenate([order.at(start, stop) for start, stop in pairwise(cuts)])
    assert np.array_equal(order.at(cuts[0], cuts[-1]), joined)
    assert joined.dtype == np.int64


@given(size=st.integers(1, 300), seed=st.integers(), epoch=st.integers(0, 1000), shuffle=st.booleans())
def test_an_epoch_has_every_sample_once(size: int, seed: int, epoch: int, shuffle: bool) -> None:
    order = SampleOrder(samples=size, seed=seed, shuffle=shuffle)
    assert is_permutation(order.at(epoch * size, (epoch + 1) * size), size)


def test_without_shuffling_the_order_is_as_stored() -> None:
    assert SampleOrder(samples=4, seed=0, shuffle=False).at(2, 9).tolist() == [2, 3, 0, 1, 2, 3, 0]


def chi_square(counts: NDArray[np.int64]) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(("size", "bound"), [(10, 45.0), (101, 190.0)])  # a chance of about 1 in 10^6 each
def test_samples_land_everywhere_alike(size: int, bound: float) -> None:
    orders = np.stack([SampleOrder(samples=size, seed=seed).at(0, size) for seed in range(2000)])  # [seed, position]
    for sample in (0, size // 2, size - 1):
        where = np.nonzero(orders == sample)[1]
        assert chi_square(np.bincount(where, minlength=size)) < bound
        assert chi_square(np.bincount(orders[:, sample], minlength=size)) < bound


def test_neighbours_are_independent() -> None:
    """The difference of neighbours in an order takes every value alike."""
    orders = np.stack([SampleOrder(samples=101, seed=seed).at(0, 101) for seed in range(300)])
    steps = (np.diff(orders, axis=1) % 101).ravel()
    assert 0 not in steps
    assert chi_square(np.bincount(steps, minlength=101)[1:]) < 190


@pytest.mark.parametrize("size", [FULL, 10**10, (1 << 63) - 1])
def test_large_sets_take_constant_memory(size: int) -> None:
    order = SampleOrder(samples=size, seed=0)
    tracemalloc.start()
    for start in (0, size // 3, size - 1000, 5 * size - 500):
        numbers = order.at(start, start + 1000)
        assert len(set(numbers.tolist())) >= 999
        assert 0 <= numbers.min() <= numbers.max() < size
        assert numbers.max() > size * 0.97
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("samples", [0, -1, 1 << 63])
def test_sizes_without_an_order_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples={samples}; an order needs"):
        SampleOrder(samples=samples, seed=0)


def test_mix_is_a_bijection_of_64_bits() -> None:
    """Inverting each of its steps gives the value back."""
    for value in (0, 1, 2, 1 << 63, (1 << 64) - 1):
        assert unmix(mix(value)) == value
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 for seed 0


def unmix(value: int) -> int:
    mask = (1 << 64) - 1
    value ^= value >> 31 ^ value >> 62
    value = value * pow(0x94D049BB133111EB, -1, 1 << 64) & mask
    value ^= value >> 27 ^ value >> 54
    value = value * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & mask
    value ^= value >> 30 ^ value >> 60
    return (value - 0x9E3779B97F4A7C15) & mask


plans = st.builds(Plan, samples=st.integers(1, 60), epochs=st.integers(1, 4), batch_size=st.integers(1, 100))


@given(plan=plans)
def test_batches_partition_the_stream(plan: Plan) -> None:
    batches = [plan.batch(step) for step in range(plan.steps)]
    assert batches[0][0] == 0 and batches[-1][1] == plan.total
    assert all(first[1] == second[0] for first, second in pairwise(batches))
    sizes = [stop - start for start, stop in batches]
    assert set(sizes[:-1]) <= {plan.batch_size} and 0 < sizes[-1] <= plan.batch_size


@given(plan=plans, ranks=st.integers(1, 16))
def test_shares_partition_each_batch(plan: Plan, ranks: int) -> None:
    """So every rank has the same number of steps, and shares that differ by a sample at most."""
    for step in range(plan.steps):
        shares = [plan.rank_span(step, rank, ranks) for rank in range(ranks)]
        assert (shares[0][0], shares[-1][1]) == plan.batch(step)
        assert all(first[1] == second[0] for first, second in pairwise(shares))
        sizes = [stop - start for start, stop in shares]
        assert max(sizes) - min(sizes) <= 1


@given(plan=plans)
def test_an_extended_plan_goes_on_where_the_shorter_one_ended(plan: Plan) -> None:
    """Every position once, though the last batch may have been cut; again for one that is extended twice."""
    for _ in range(2):
        before = plan
        end = {"first_step": before.steps, "first_position": before.total}
        plan = replace(before, epochs=before.epochs + 2, **end)
        spans = [plan.batch(step) for step in range(before.steps, plan.steps)]
        assert spans[0][0] == before.total and spans[-1][1] == plan.total
        assert all(stop == start for (_, stop), (start, _) in pairwise(spans))
        assert all(stop - start == plan.batch_size for start, stop in spans[:-1]) and spans[-1][0] < spans[-1][1]
        assert plan.seen(before.steps) == before.total and plan.epochs_done(before.steps) == before.epochs
        assert plan.epochs_done(plan.steps) == plan.epochs


@given(plan=plans)
def test_epochs_done_counts_whole_epochs(plan: Plan) -> None:
    for step in range(plan.steps + 1):
        seen = min(step * plan.batch_size, plan.total)
        assert plan.epochs_done(step) * plan.samples <= seen < (plan.epochs_done(step) + 1) * plan.samples
    assert plan.epochs_done(plan.steps) == plan.epochs


@given(start=st.integers(0, 1 << 60), count=st.integers(0, 1000), parts=st.integers(1, 50))
def test_a_cut_loses_nothing(start: int, count: int, parts: int) -> None:
    spans = [cut(start, start + count, part, parts) for part in range(parts)]
    assert (spans[0][0], spans[-1][1]) == (start, start + count)
    assert all(first[1] == second[0] for first, second in pairwise(spans))


@given(
    lengths=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=20),
    together=st.sampled_from([1, 10, 100]),
)
def test_stretches_looked_up_together(lengths: list[tuple[int, int]], together: int) -> None:
    """With gaps, as a rank's shares of global batches have, and without."""
    order, spans, position = SampleOrder(samples=50, seed=1), [], 0
    for gap, length in lengths:
        spans.append((position + gap, position + gap + length))
        position += gap + length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_module, "TOGETHER", together)
        found = list(order_module.numbers_of(order, spans))
    assert [numbers.tolist() for numbers in found] == [order.at(*span).tolist() for span in spans]


@pytest.mark.parametrize("field", ["samples", "epochs", "batch_size"])
def test_a_plan_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0.*at least 1"):
        Plan(**{"samples": 1, "epochs": 1, "batch_size": 1, field: 0})


def test_a_span_is_cut_where_epochs_end() -> None:
    assert list(by_epoch(3, 22, 10)) == [(0, 3, 10), (1, 0, 10), (2, 0, 2)]
    assert list(by_epoch(20, 25, 10)) == [(2, 0, 5)]
    assert list(by_epoch(20, 20, 10)) == []
