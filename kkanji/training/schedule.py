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
class Worker:
    """One process of a run."""

    rank: int
    ranks: int


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The rate at a point of the run, in epochs and their fractions."""
    if epoch < config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    if config.schedule == "constant":
        return config.lr
    progress = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def image_size(config: TrainConfig, epoch: float) -> int:
    """Pixels a side at a point of the run: small images first, since they teach most of it at a fraction of the cost.

    Progressive learning: Tan and Le, ICML 2021, section 4.
    """
    progress = min(epoch / (config.epochs * config.full_size_at), 1.0)
    grown = config.start_size + progress * (IMAGE_SIZE - config.start_size)
    return int(grown / SIZE_STEP + 1e-9) * SIZE_STEP


def strength(config: TrainConfig, epoch: int) -> float:
    """Of the augmentation policy in an epoch."""
    augmented = config.epochs - config.unaugmented_epochs
    if epoch >= augmented:
        return 0.0
    start = config.augment if config.augment_start is None else config.augment_start
    return start + (config.augment - start) * epoch / max(augmented - 1, 1)


def micro_batches(plan: Plan, step: int, worker: Worker, micro_batch: int) -> list[Span]:
    """How a worker cuts its share of a global batch: near-equal stretches of at most micro_batch samples.

    A worker whose share is empty (a last batch smaller than the number of ranks) gets one sample, which the loop weighs
    with zero: every rank takes part in every step.
    """
    start, stop = plan.rank_span(step, worker.rank, worker.ranks)
    if start == stop:
        first = plan.batch(step)[0]
        return [(first, first + 1)]
    parts = -(-(stop - start) // micro_batch)
    return [cut(start, stop, part, parts) for part in range(parts)]


def spans(plan: Plan, first_step: int, worker: Worker, micro_batch: int) -> Iterator[Span]:
    """All micro-batches of a worker from a step on to the end of the run."""
    for step in range(first_step, plan.steps):
        yield from micro_batches(plan, step, worker, micro_batch)
