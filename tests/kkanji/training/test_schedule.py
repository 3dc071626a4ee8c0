from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kkanji.config import TrainConfig, train_config
from kkanji.training.schedule import Rank, image_size, learning_rate, micro_batches, spans, strength
from shards import Plan


def config(**options: object) -> TrainConfig:
    return train_config(data="data", output=Path("run"), epochs=10, lr=2.0, **options)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0), (0.5, 1), (1, 2), (5.5, 1), (10, 0)])
def test_warm_up_and_cosine(epoch: float, rate: float) -> None:
    assert learning_rate(config(schedule="cosine", warmup_epochs=1.0), epoch) == pytest.approx(rate, abs=1e-12)


def test_constant() -> None:
    assert {learning_rate(config(), epoch) for epoch in (0, 3.3, 10)} == {2.0}


PLANS = st.builds(Plan, samples=st.integers(1, 300), epochs=st.integers(1, 4), batch_size=st.integers(1, 200))


@given(PLANS, st.integers(1, 16), st.integers(1, 64))
def test_micro_batches_of_all_ranks_are_the_global_batches(plan: Plan, ranks: int, micro: int) -> None:
    for step in range(plan.steps):
        start, stop = plan.batch(step)
        seen: list[int] = []
        for rank in range(ranks):
            parts = micro_batches(plan, step, Rank(index=rank, count=ranks), micro)
            assert parts  # every rank takes part in every step
            assert all(0 < last - first <= micro for first, last in parts)
            own = plan.rank_span(step, rank, ranks)
            if own[0] < own[1]:
                seen += [position for part in parts for position in range(*part)]
        assert seen == list(range(start, stop))


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
    assert [strength(config(**options), epoch) for epoch in range(10)] == pytest.approx(expected)
