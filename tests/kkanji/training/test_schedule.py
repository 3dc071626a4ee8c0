from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kkanji.config import TrainConfig, train_config
from kkanji.training.schedule import WHOLE, Part, Rank, image_size, learning_rate, part_of, spans, strength
from shards import Plan


def config(**options: object) -> TrainConfig:
    return train_config(data="data", output=Path("run"), epochs=10, lr=2.0, **options)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0), (0.5, 1), (1, 2), (5.5, 1), (10, 0)])
def test_warm_up_and_cosine(epoch: float, rate: float) -> None:
    assert learning_rate(config(schedule="cosine", warmup_epochs=1.0), epoch) == pytest.approx(rate, abs=1e-12)


def test_constant() -> None:
    assert {learning_rate(config(), epoch) for epoch in (0, 3.3, 10)} == {2.0}


PLANS = st.builds(Plan, samples=st.integers(1, 300), epochs=st.integers(1, 4), batch_size=st.integers(1, 200))


def parts_of(plan: Plan, step: int, ranks: int, micro: int) -> list[Part]:
    return [part_of(plan, step, Rank(index=rank, count=ranks), micro) for rank in range(ranks)]


def cuts(parts: list[Part]) -> list[tuple[int, int]]:
    """The micro-batches of a global batch, over all ranks."""
    return [span for part in parts if not part.idle for span in part.spans]


@given(PLANS, st.integers(1, 16), st.integers(1, 64))
def test_micro_batches_of_all_ranks_are_the_global_batches(plan: Plan, ranks: int, micro: int) -> None:
    for step in range(plan.steps):
        start, stop = plan.batch(step)
        parts = parts_of(plan, step, ranks, micro)
        assert all(part.spans and all(0 < last - first <= micro for first, last in part.spans) for part in parts)
        assert [position for span in cuts(parts) for position in range(*span)] == list(range(start, stop))
        assert {part.weight for part in parts} <= {ranks / (stop - start), 0.0}
        for part in parts:
            own = 0 if part.idle else len(part.spans)
            assert cuts(parts)[part.before : part.before + own] == part.spans[:own]
            assert part.before + own + part.behind == part.batch == len(cuts(parts))


@given(PLANS, st.integers(1, 16), st.integers(1, 64))
def test_ranks_cut_a_global_batch_alike_where_they_can(plan: Plan, ranks: int, micro: int) -> None:
    """Where as many micro-batches are for each, and the last batch, if shorter, in any case."""
    for step in range(plan.steps):
        start, stop = plan.batch(step)
        alone, together = (cuts(parts_of(plan, step, count, micro)) for count in (1, ranks))
        if len(alone) % ranks == 0 or stop - start < plan.batch_size:
            assert together == alone
        elif -(-len(alone) // ranks) * ranks <= stop - start:  # else there are too few images
            assert {len(part.spans) for part in parts_of(plan, step, ranks, micro)} == {len(together) // ranks}


@given(PLANS, st.integers(1, 16), st.integers(1, 64))
def test_a_rank_has_one_span_of_a_whole_batch_which_lanes_and_nodes_share_out(
    plan: Plan, ranks: int, micro: int
) -> None:
    if plan.batch_size <= plan.total and plan.batch_size >= ranks:
        spans_of = [(part.spans[0][0], part.spans[-1][1]) for part in parts_of(plan, 0, ranks, micro)]
        assert spans_of == [plan.rank_span(0, rank, ranks) for rank in range(ranks)]


@given(PLANS, st.integers(1, 64), st.data())
def test_a_resumed_run_reads_the_tail(plan: Plan, micro: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, plan.steps))
    rank = Rank(index=0, count=1)
    whole, tail = list(spans(plan, 0, rank, micro)), list(spans(plan, first, rank, micro))
    assert whole[len(whole) - len(tail) :] == tail


def test_images_grow_in_steps_and_end_at_their_own_size() -> None:
    growing = config(start_size=32, full_size_at=0.5)
    sizes = [image_size(growing, epoch / 100) for epoch in range(1001)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 32
    assert set(sizes) == {32, 40, 48, 56, 64}
    assert set(sizes[500:]) == {64}
    assert {image_size(config(), epoch) for epoch in (0, 3.3, 10)} == {64}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.0] * 10),
        ({"augment": 0.8, "unaugmented_epochs": 2}, [0.8] * 8 + [0.0] * 2),
        ({"augment": 1.0, "augment_start": 0.1}, [0.1 * number for number in range(1, 11)]),
        ({"unaugmented_epochs": 10}, [0.0] * 10),
    ],
)
def test_the_strength_of_the_augmentation(options: dict[str, float], expected: list[float]) -> None:
    assert [strength(config(**options), WHOLE, epoch) for epoch in range(10)] == pytest.approx(expected)
