"""The training loop. Everything that a step depends on follows from the options and the samples seen, so a run that is
stopped anywhere and resumed computes what an undisturbed one computes."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial

import torch

from kkanji.augment.appearance import soil
from kkanji.config import TrainConfig
from kkanji.data.dali import Batch
from kkanji.environment import warn_of_emulation, warn_of_idle_cores
from kkanji.pixels import normalise, resized
from kkanji.tracking.trackers import require_trackers
from kkanji.training.agreement import agree, alike, meet, together
from kkanji.training.build import (
    Run,
    blank_batch,
    build_run,
    create_accelerator,
    create_data_check,
    create_loader,
    create_meter,
    create_pace,
)
from kkanji.training.meter import Meter, Pace
from kkanji.training.profiling import Watch, profiled, watched, without_garbage_collection
from kkanji.training.run_log import RunLog
from kkanji.training.saving import Saver, begin_or_resume, compare_ranks, position
from kkanji.training.schedule import image_size, largest_micro_batch, learning_rate, part_of
from kkanji.training.signals import SAVED, UNSAVED, Ending, Leaving, LostRank, missing_ranks, prompt_signals
from shards import InputError, Plan, ShardSet
from shards.order.permutation import mix
from shards.read.cut_files import survived


def train(config: TrainConfig, data: ShardSet) -> None:
    """Train from the options to the last checkpoint. Raises InputError if the options or the data are wrong."""
    before = "before the first step"
    with ExitStack() as held, watched(config.runtime.stall_seconds, before) as watch, missing_ranks():
        with prompt_signals():
            require_trackers(config.checkpointing.trackers)
            meet()
            agreed = agree(config, data, held)
            accelerator = create_accelerator(agreed.precision)
            warn_of_idle_cores(accelerator)
            warn_of_emulation(accelerator)
            run = build_run(accelerator, agreed.config, data, agreed.classes, agreed.state)
            changes = together(partial(begin_or_resume, run, agreed.checkpoint))[0]  # before the log is begun
        train_to_end(run, watch, changes)


# ----------------------------------------------------------------------------------------------------------------------
# The step


def take_step(run: Run, step: int, batches: Iterator[Batch], meter: Meter, ending: Ending) -> None:
    """One optimizer step: the gradient of the mean loss over the global batch, however it is cut into micro-batches.

    B images of a micro-batch, C classes, s pixels a side (smaller than 64 early in a run that grows its images).
    """
    config, accelerator, learner = run.config, run.accelerator, run.learner
    start, stop = run.plan.batch(step)  # positions of the batch's images in the run
    epoch = start / run.plan.samples
    size = image_size(config, epoch, run.stretch)
    part = part_of(run.plan, step, run.rank, config.runtime.micro_batch)

    learner.model.train()
    learner.statistics.begin(part)
    for first, last in part.spans:
        is_last = (first, last) == part.spans[-1]
        batch = ending.take(batches, last=is_last)  # images uint8 (B, 1, 64, 64), labels int64 (B,)
        if batch is None:
            continue
        torch.manual_seed(seed_at(config.runtime.seed, first))  # of dropout and mixing
        pixels = normalise(soil(batch.images, config.augmentation.appearance, config.runtime.seed, first))
        mixing = learner.mixup.sample()
        fractions = learner.mixup.fractions(mixing, accelerator.device)
        mixes = () if fractions is None else (fractions,)  # other networks than ours take images alone
        # Ranks exchange gradients once a step, in the backward pass of the last micro-batch.
        exchange = nullcontext() if is_last else accelerator.no_sync(learner.model)
        with exchange:
            with accelerator.autocast():
                logits = learner.model(resized(pixels, size), *mixes)  # (B, C)
            loss = learner.objective(logits.float(), batch.labels, pixels, mixing)  # summed over B
            accelerator.backward(loss * part.weight)
        if not part.idle:
            meter.add(logits.detach(), batch.labels, loss.detach(), flops=len(batch.labels) * learner.flops(size))

    ending.settle()  # from here on the step is taken
    learner.statistics.end(part)
    learner.guard.check(step)
    learner.set_learning_rate(learning_rate(config, epoch, run.stretch))
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


def train_to_end(run: Run, watch: Watch, changes: str = "") -> None:
    """Take the remaining steps of the run. changes: what a resumed run does otherwise than before, for the log."""
    run.learner.require_own_tensors()
    compare_ranks(run)
    config, output = run.config, run.config.checkpointing.output
    first = run.progress.step
    pace = create_pace(run)
    with (
        alike(partial(_create_log, run)) as log,
        alike(partial(create_loader, run, first)) as loader,
        alike(partial(create_data_check, run)) as check,
        Ending(blank_batch(run), watch.moved, over=lambda: run.is_main and pace.over()) as ending,
        profiled(config.runtime.profile_steps, output / "profile") as profiler,
        without_garbage_collection(),
        survived(),
    ):
        _announce(run, log, changes)
        batches = iter(loader)
        meter = create_meter(run, loader)
        saver = Saver(run, log, ending)
        try:
            with missing_ranks():
                if _evaluation_due(run) and run.progress.evaluated_step < first:
                    saver.evaluate_and_save()
                for step in range(first, run.last_step):
                    watch.moved(f"in step {step + 1}")
                    ending.note(check.problem, save=False)
                    if _ends_epoch(run.plan, step):
                        check.finish(ending.meet)
                    with ending.undoing(run.learner.network):
                        take_step(run, step, batches, meter, ending)
                    run.progress.step = step + 1
                    run.progress.seconds = pace.seconds
                    watch.begun()
                    watch.moved(f"after step {step + 1}")
                    _log_and_save(run, log, meter, saver, pace)
                    profiler.step()
                    ending.note(log.problem)
                    if ending.over:
                        break
                _end_early(run, log, saver)
        except Leaving:
            ending.leave(saver.save_unsaved, run.progress.step)
        except LostRank as lost:
            kept = saver.save_alone()
            raise InputError(f"{lost}; {SAVED.format(step=run.progress.step) if kept else UNSAVED}") from lost


def _create_log(run: Run) -> RunLog:
    return RunLog(
        run.config.checkpointing.output,
        total_images=run.plan.total,
        seen_images=run.plan.seen(run.progress.step),
        seen_steps=run.progress.step,
        enabled=run.is_main,
        options=run.config.to_dict(),
        log_with=run.config.checkpointing.trackers,
    )


def _end_early(run: Run, log: RunLog, saver: Saver) -> None:
    """A run that --max-steps or --max-minutes ends before its last step is evaluated and saved as one at its end."""
    step, schedule = run.progress.step, run.config.schedule
    if step == run.plan.steps:
        return
    if run.progress.evaluated_step < step:
        saver.evaluate_and_save()
    by = f"--max-steps {schedule.max_steps}" if step >= run.last_step else f"--max-minutes {schedule.max_minutes:g}"
    text = f"ended by {by} after step {step} of {run.plan.steps}; --resume with a higher limit goes on from there"
    log.note("end", text, step=step)


def _log_and_save(run: Run, log: RunLog, meter: Meter, saver: Saver, pace: Pace) -> None:
    """After a step, what is due: a log line, an evaluation, a checkpoint."""
    step, plan, every = run.progress.step, run.plan, run.config.checkpointing
    epoch_ended = _ends_epoch(plan, step - 1)
    if step % every.log_every == 0 or epoch_ended:
        run.learner.guard.raise_if_bad()
        rate = run.learner.optimizer.param_groups[0]["lr"]
        measured = meter.read(run.accelerator)
        log.step(**position(run), **_ahead(run, pace, measured["images_per_s"]), lr=rate, **measured)
        gc.collect()  # on all ranks at one step: `without_garbage_collection` says why
    if _evaluation_due(run):
        with meter.left_out(), pace.pause():
            saver.evaluate_and_save()
    elif epoch_ended or (every.save_every and step % every.save_every == 0):
        with meter.left_out():
            saver.save()


def _ahead(run: Run, pace: Pace, images_per_s: float) -> dict[str, float]:
    """What a log line says of the run's end: its steps, its epochs, and the seconds left."""
    plan, seen, end = run.plan, run.plan.seen(run.progress.step), run.plan.seen(run.last_step)
    before, after = (position // plan.samples // run.config.checkpointing.evaluate_every for position in (seen, end))
    evaluations = after - before + bool(end % (plan.samples * run.config.checkpointing.evaluate_every))
    left_s = pace.left_s(seen, end, images_per_s, pauses=evaluations)
    return {"steps": run.last_step, "epochs": plan.epochs, "left_s": left_s}


def _ends_epoch(plan: Plan, step: int) -> bool:
    return plan.epochs_done(step + 1) > plan.epochs_done(step)


def _evaluation_due(run: Run) -> bool:
    """Whether the last step is one that an evaluation follows."""
    step, plan = run.progress.step, run.plan
    epochs = plan.epochs_done(step)
    ended = step > 0 and _ends_epoch(plan, step - 1)
    return ended and (step == plan.steps or epochs % run.config.checkpointing.evaluate_every == 0)


def _announce(run: Run, log: RunLog, changes: str) -> None:
    config, count = run.config, run.rank.count
    if changes:
        log.note("resume", changes, step=run.progress.step)
    log.note(
        "start",
        f"{config.network.model} on {run.data.shards.manifest.name}: "
        f"{run.plan.samples:,} images of {len(run.data.classes)} classes, "
        f"steps {run.progress.step}..{run.plan.steps} of {config.optimization.batch_size} images, "
        f"{count} x {run.accelerator.device.type} in micro-batches of "
        f"{largest_micro_batch(run.plan, count, config.runtime.micro_batch)}",
        step=run.progress.step,
    )
