"""Everything that changes in the course of a run as a pure function of the samples seen: no scheduler has a state."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kkanji.config import EXTENDABLE, RESCHEDULED, SIZE_STEP, TrainConfig
from kkanji.data.feed import Span
from shards import InputError, Plan
from shards.format.layout import IMAGE_SIZE
from shards.order.sequential import cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One process among those of a run."""

    index: int
    """From 0."""
    count: int
    """Processes of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A part of a run under one schedule. A new run has one; an extension with other epochs or rates begins another."""

    step: int = 0
    """Steps before it."""
    position: int = 0
    """Images before it."""
    epoch: float = 0.0
    """The same in epochs."""
    rate: float = 0.0
    """The learning rate that it begins with."""
    growth: int = 0
    """Epochs over which images grow and augmentation changes: those that the run was begun with. 0 for --epochs."""


WHOLE = Stretch()  # of a run that was never extended


def plan_of(config: TrainConfig, samples: int, stretch: Stretch = WHOLE) -> Plan:
    """The steps of a run. samples: of an epoch."""
    return Plan(
        samples=samples,
        epochs=config.schedule.epochs,
        batch_size=config.optimization.batch_size,
        first_step=stretch.step,
        first_position=stretch.position,
    )


def resumed_stretch(config: TrainConfig, state: Mapping[str, Any], samples: int) -> Stretch:
    """Where a run goes on from a checkpoint: in the stretch of then, or in a new one if its schedule has changed.

    state: the checkpoint's. samples: of an epoch. Raises InputError if that leaves nothing to do.
    """
    stretch, step = Stretch(**state.get("stretch", {})), int(state["progress"]["step"])
    before = config.with_saved(state["config"], EXTENDABLE)
    if all(before.value(name) == config.value(name) for name in RESCHEDULED):
        return stretch
    position, schedule = plan_of(before, samples, stretch).seen(step), config.schedule
    epoch = position / samples
    if schedule.epochs * samples <= position:
        raise InputError(f"--epochs {schedule.epochs}: the run has {epoch:.4g} behind it; give more, to extend it")
    if schedule.warmup_epochs > schedule.epochs - epoch:
        found = f"--warmup-epochs {schedule.warmup_epochs:g}: more than the {schedule.epochs - epoch:.4g} epochs left"
        raise InputError(f"{found}; give fewer, or more --epochs")
    if position % config.optimization.batch_size and config.sampling.lanes > 1:
        init = f"--init {config.checkpointing.output}/checkpoints/last"
        raise InputError(f"sampling.lanes: a run that ended within a batch cannot go on; begin a new one with {init}")
    return Stretch(
        step=step,
        position=position,
        epoch=epoch,
        rate=learning_rate(before, epoch, stretch),
        growth=stretch.growth or before.schedule.epochs,
    )


def learning_rate(config: TrainConfig, epoch: float, stretch: Stretch = WHOLE) -> float:
    """The learning rate at a point of the run, in epochs and fractions of them."""
    schedule, peak = config.schedule, config.optimization.lr
    done, warmup = epoch - stretch.epoch, schedule.warmup_epochs
    if done < warmup:
        return stretch.rate + (peak - stretch.rate) * done / warmup
    if schedule.schedule == "constant":
        return peak
    progress = (done - warmup) / max(schedule.epochs - stretch.epoch - warmup, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def image_size(config: TrainConfig, epoch: float, stretch: Stretch = WHOLE) -> int:
    """Side of the images in pixels at a point of the run: small ones teach most of it at a fraction of the cost.

    Progressive learning: Tan and Le, EfficientNetV2, ICML 2021, section 4.
    """
    schedule = config.schedule
    progress = min(epoch / ((stretch.growth or schedule.epochs) * schedule.full_size_at), 1.0)
    grown = schedule.start_size + progress * (IMAGE_SIZE - schedule.start_size)
    return int(grown / SIZE_STEP + 1e-9) * SIZE_STEP


def strength(config: TrainConfig, stretch: Stretch, epoch: int) -> float:
    """Strength of the augmentation policy in an epoch."""
    augmentation = config.augmentation
    augmented = config.schedule.epochs - augmentation.unaugmented_epochs
    if epoch >= augmented:
        return 0.0
    end = augmentation.augment
    start = end if augmentation.augment_start is None else augmentation.augment_start
    changing = (stretch.growth or config.schedule.epochs) - augmentation.unaugmented_epochs
    return start + (end - start) * min(epoch / max(changing - 1, 1), 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A rank's part of a global batch: some of the micro-batches that the batch is cut into."""

    spans: list[Span]
    """Where each micro-batch lies in the stream. An idle rank has one of another rank's: it must take part in the
    exchange of gradients."""
    weight: float
    """What the rank multiplies its summed losses by, so that all gradients together are those of the batch's mean loss:
    the number of ranks is in it, as DDP averages gradients over ranks, where we want their sum. 0 for an idle rank."""
    before: int
    """Micro-batches of the global batch before the rank's own."""
    batch: int
    """Micro-batches of the global batch."""

    @property
    def idle(self) -> bool:
        """Whether all of the batch is other ranks'."""
        return not self.weight

    @property
    def behind(self) -> int:
        """Micro-batches of the global batch after the rank's own."""
        return self.batch - self.before - (0 if self.idle else len(self.spans))


def part_of(plan: Plan, step: int, rank: Rank, micro_batch: int) -> Part:
    """A rank's part of a step's global batch, which is cut into near-equal micro-batches.

    Every number of ranks that divides the number of micro-batches cuts alike; another one cuts more, as many for each.
    The last batch of a run, if shorter, is cut alike by any number of ranks: some then have fewer micro-batches than
    others, or none.
    """
    start, stop = plan.batch(step)
    count = -(-(stop - start) // micro_batch)
    if stop - start == plan.batch_size:
        count = min(-(-count // rank.count) * rank.count, stop - start)
    first, last = cut(0, count, rank.index, rank.count)
    own = range(first, last) or range(1)
    return Part(
        spans=[cut(start, stop, number, count) for number in own],
        weight=rank.count / (stop - start) if first < last else 0.0,
        before=first,
        batch=count,
    )


def spans(plan: Plan, first_step: int, rank: Rank, micro_batch: int) -> Iterator[Span]:
    """All micro-batches of a rank from a step to the end of the run."""
    for step in range(first_step, plan.steps):
        yield from part_of(plan, step, rank, micro_batch).spans


def largest_micro_batch(plan: Plan, ranks: int, micro_batch: int) -> int:
    """Images of the largest micro-batch that a full global batch is cut into, on any of its ranks."""
    every = (Rank(index=index, count=ranks) for index in range(ranks))
    return max(stop - start for rank in every for start, stop in part_of(plan, 0, rank, micro_batch).spans)
