"""Everything that changes in the course of a run as a pure function of the samples seen: no scheduler has a state."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kkanji.config import SIZE_STEP, TrainConfig
from kkanji.data.feed import Span
from shards import Plan
from shards.format.layout import IMAGE_SIZE
from shards.order.sequential import cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One process among those of a run."""

    index: int
    """From 0."""
    count: int
    """Processes of the run."""


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The learning rate at a point of the run, in epochs and fractions of them."""
    schedule, peak = config.schedule, config.optimization.lr
    if epoch < schedule.warmup_epochs:
        return peak * epoch / schedule.warmup_epochs
    if schedule.schedule == "constant":
        return peak
    progress = (epoch - schedule.warmup_epochs) / max(schedule.epochs - schedule.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def image_size(config: TrainConfig, epoch: float) -> int:
    """Side of the images in pixels at a point of the run: small ones teach most of it at a fraction of the cost.

    Progressive learning: Tan and Le, EfficientNetV2, ICML 2021, section 4.
    """
    schedule = config.schedule
    progress = min(epoch / (schedule.epochs * schedule.full_size_at), 1.0)
    grown = schedule.start_size + progress * (IMAGE_SIZE - schedule.start_size)
    return int(grown / SIZE_STEP + 1e-9) * SIZE_STEP


def strength(config: TrainConfig, epoch: int) -> float:
    """Strength of the augmentation policy in an epoch."""
    augmentation = config.augmentation
    augmented = config.schedule.epochs - augmentation.unaugmented_epochs
    if epoch >= augmented:
        return 0.0
    end = augmentation.augment
    start = end if augmentation.augment_start is None else augmentation.augment_start
    return start + (end - start) * epoch / max(augmented - 1, 1)


def micro_batches(plan: Plan, step: int, rank: Rank, micro_batch: int) -> list[Span]:
    """How a rank cuts its part of a global batch: near-equal spans of at most micro_batch samples.

    A rank without a part (a last batch smaller than the number of ranks) gets one sample, which `loss_weight` weighs
    with zero: every rank must take part in the exchange of gradients.
    """
    start, stop = plan.rank_span(step, rank.index, rank.count)
    if start == stop:
        first = plan.batch(step)[0]
        return [(first, first + 1)]
    parts = -(-(stop - start) // micro_batch)
    return [cut(start, stop, part, parts) for part in range(parts)]


def loss_weight(plan: Plan, step: int, rank: Rank) -> float:
    """What a rank multiplies its summed losses by, so that all gradients together are those of the batch's mean loss.

    The number of ranks is in it because DDP averages gradients over ranks, where we want their sum.
    """
    own_start, own_stop = plan.rank_span(step, rank.index, rank.count)
    start, stop = plan.batch(step)
    return rank.count / (stop - start) if own_start < own_stop else 0.0


def spans(plan: Plan, first_step: int, rank: Rank, micro_batch: int) -> Iterator[Span]:
    """All micro-batches of a rank from a step to the end of the run."""
    for step in range(first_step, plan.steps):
        yield from micro_batches(plan, step, rank, micro_batch)


def largest_micro_batch(plan: Plan, ranks: int, micro_batch: int) -> int:
    """Images of the largest micro-batch that a full global batch is cut into, on any of its ranks."""
    every = (Rank(index=index, count=ranks) for index in range(ranks))
    return max(stop - start for rank in every for start, stop in micro_batches(plan, 0, rank, micro_batch))
