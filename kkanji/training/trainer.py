"""The training loop. Everything that a step depends on follows from the options and the samples seen, so a run that is
stopped anywhere and resumed computes what an undisturbed one computes."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from time import perf_counter

import torch

from kkanji.config import TrainConfig
from kkanji.data.dali import Batch
from kkanji.environment import warn_of_emulation, warn_of_idle_cores
from kkanji.pixels import normalise, resized
from kkanji.training.agreement import agree, together
from kkanji.training.build import Run, build_run, create_accelerator, create_data_check, create_loader, create_meter
from kkanji.training.finite_guard import FiniteGuard
from kkanji.training.meter import Meter
from kkanji.training.profiling import profiled, watched, without_garbage_collection
from kkanji.training.run_log import RunLog
from kkanji.training.saving import Saver, begin_or_resume, compare_ranks, position
from kkanji.training.schedule import image_size, learning_rate, loss_weight, micro_batches
from kkanji.training.signals import Interruption, leave
from shards import Plan, ShardSet
from shards.order.permutation import mix


def train(config: TrainConfig, data: ShardSet) -> None:
    """Train from the options to the last checkpoint. Raises InputError if the options or the data are wrong."""
    with ExitStack() as held:
        agreed = agree(config, data, held)
        accelerator = create_accelerator(agreed.precision)
        warn_of_idle_cores(accelerator)
        warn_of_emulation(accelerator)
        run = build_run(accelerator, agreed.config, data, agreed.classes)
        together(partial(begin_or_resume, run, agreed.checkpoint))  # before the main process begins its log
        train_to_end(run)


# ----------------------------------------------------------------------------------------------------------------------
# The step


def take_step(run: Run, step: int, batches: Iterator[Batch], meter: Meter) -> None:
    """One optimizer step: the gradient of the mean loss over the global batch, however it is cut into micro-batches.

    B images of a micro-batch, C classes, s pixels a side (smaller than 64 early in a run that grows its images).
    """
    config, accelerator, learner = run.config, run.accelerator, run.learner
    start, stop = run.plan.batch(step)  # positions of the batch's images in the run
    epoch = start / run.plan.samples
    size = image_size(config, epoch)
    weight = loss_weight(run.plan, step, run.rank)
    parts = micro_batches(run.plan, step, run.rank, config.runtime.micro_batch)

    learner.model.train()
    for first, last in parts:
        batch = next(batches)  # images uint8 (B, 1, 64, 64), labels int64 (B,)
        torch.manual_seed(seed_at(config.runtime.seed, first))  # of dropout and mixing
        pixels = normalise(batch.images)
        mixing = learner.mixup.sample()
        fractions = learner.mixup.fractions(mixing, accelerator.device)
        # Ranks exchange gradients once a step, in the backward pass of the last micro-batch.
        exchange = nullcontext() if (first, last) == parts[-1] else accelerator.no_sync(learner.model)
        with exchange:
            with accelerator.autocast():
                logits = learner.model(resized(pixels, size), fractions)  # (B, C)
            loss = learner.objective(logits.float(), batch.labels, pixels, mixing)  # summed over B
            accelerator.backward(loss * weight)
        if weight:  # else the rank has no part in this batch, and the sample is another rank's
            meter.add(logits.detach(), batch.labels, loss.detach(), flops=len(batch.labels) * learner.flops(size))

    learner.guard.check(step)
    learner.set_learning_rate(learning_rate(config, epoch))
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.average.update(stop - start, stop)


def seed_at(seed: int, position: int) -> int:
    """The seed of a micro-batch whose first image has this position in the run, from 0 to 2**63 - 1.

    It depends on nothing else, so a resumed run repeats dropout and mixing. The run's seed is mixed before it meets the
    position: otherwise runs of seeds 0 and 1 would use the same micro-batch seeds, only at neighbouring positions.
    """
    return mix(mix(seed) ^ position) >> 1  # the shift makes it fit into a signed 64-bit integer


# ----------------------------------------------------------------------------------------------------------------------
# The loop


def train_to_end(run: Run) -> None:
    """Take the remaining steps of the run."""
    if not run.learner.average.follows(run.learner.network):
        raise RuntimeError("the average was made of tensors that the trained model no longer has")
    compare_ranks(run)
    config, output = run.config, run.config.checkpointing.output
    first = run.progress.step
    seen = min(run.plan.batch(first)[0], run.plan.total)  # the last batch may be shorter
    with (
        RunLog(
            output, total_images=run.plan.total, seen_images=seen, enabled=run.is_main, options=config.to_dict()
        ) as log,
        create_loader(run, first) as loader,
        create_data_check(run) as check,
        Interruption() as interruption,
        profiled(config.runtime.profile_steps, output / "profile") as profiler,
        without_garbage_collection(),
        watched(config.runtime.stall_seconds) as still_moving,
    ):
        _announce(run, log)
        batches = iter(loader)
        meter = create_meter(run, loader)
        saver = Saver(run, log)
        started = perf_counter() - run.progress.seconds
        for step in range(first, run.plan.steps):
            still_moving()
            while not check.passed(whole=_ends_epoch(run.plan, step)):
                still_moving()
                _leave_if_asked(run.learner.guard, saver, interruption)
            take_step(run, step, batches, meter)
            run.progress.step = step + 1
            run.progress.seconds = perf_counter() - started
            still_moving()
            _log_and_save(run, log, meter, saver)
            profiler.step()
            _leave_if_asked(run.learner.guard, saver, interruption)


def _log_and_save(run: Run, log: RunLog, meter: Meter, saver: Saver) -> None:
    """After a step, what is due: a log line, an evaluation, a checkpoint."""
    step, plan, every = run.progress.step, run.plan, run.config.checkpointing
    finished = step == plan.steps
    epoch_ended = _ends_epoch(plan, step - 1)
    saving = finished or epoch_ended or bool(every.save_every and step % every.save_every == 0)
    logging = finished or epoch_ended or step % every.log_every == 0
    if saving or logging:
        run.learner.guard.raise_if_bad()
    if logging:
        rate = run.learner.optimizer.param_groups[0]["lr"]
        log.step(**position(run), lr=rate, **meter.read(run.accelerator))
        gc.collect()  # on all ranks at one step: `without_garbage_collection` says why
    if finished or (epoch_ended and plan.epochs_done(step) % every.evaluate_every == 0):
        with meter.left_out():
            saver.evaluate_and_save()
    elif saving:
        with meter.left_out():
            saver.save()


def _ends_epoch(plan: Plan, step: int) -> bool:
    return plan.epochs_done(step + 1) > plan.epochs_done(step)


def _leave_if_asked(guard: FiniteGuard, saver: Saver, interruption: Interruption) -> None:
    """Save and leave between two steps, when all ranks agree that one of them received a signal."""
    number = interruption.agreed()
    if number:
        guard.raise_if_bad()
        saver.save_unsaved()
        leave(number)


def _announce(run: Run, log: RunLog) -> None:
    config = run.config
    log.note(
        "start",
        f"{config.network.model} on {run.data.shards.manifest.name}: "
        f"{run.plan.samples:,} images of {len(run.data.classes)} classes, "
        f"steps {run.progress.step}..{run.plan.steps} of {config.optimization.batch_size} images, "
        f"{run.rank.count} x {run.accelerator.device.type} in micro-batches of {config.runtime.micro_batch}",
        step=run.progress.step,
    )
