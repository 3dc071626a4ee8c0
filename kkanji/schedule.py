"""Learning rate and steps as pure functions of the samples seen, so that a resumed run needs no scheduler's state."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kkanji.config import TrainConfig
from kkanji.pipeline import Stretch
from shards import Plan
from shards.order import cut


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


def micro_batches(plan: Plan, step: int, worker: Worker, micro_batch: int) -> list[Stretch]:
    """How a worker cuts its share of a global batch: near-equal stretches of at most micro_batch samples.

    A worker whose share is empty (a last batch smaller than the number of ranks) gets one sample, which the loop weighs
    with zero: every rank takes part in every step.
    """
    start, stop = plan.share(step, worker.rank, worker.ranks)
    if start == stop:
        first = plan.batch(step)[0]
        return [(first, first + 1)]
    parts = -(-(stop - start) // micro_batch)
    return [cut(start, stop, part, parts) for part in range(parts)]


def stretches(plan: Plan, first_step: int, worker: Worker, micro_batch: int) -> Iterator[Stretch]:
    """All micro-batches of a worker from a step on to the end of the run."""
    for step in range(first_step, plan.steps):
        yield from micro_batches(plan, step, worker, micro_batch)
