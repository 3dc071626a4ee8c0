"""A run's folder: begun or resumed, evaluated and saved."""

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import nn

from kkanji import checkpoint
from kkanji.checkpoint.lineage import run_lineage
from kkanji.checkpoint.load import initial_weights
from kkanji.config import flag, read_options
from kkanji.data.training_set import ORDER_VERSION
from kkanji.environment import environment
from kkanji.evaluation.metrics import summarise
from kkanji.evaluation.predict_split import describe, predict_split, unaugmented_feed
from kkanji.timm_models import has_weights, load_timm_weights
from kkanji.training.agreement import checksum, compare, together
from kkanji.training.build import Run
from kkanji.training.run_log import RunLog
from kkanji.training.schedule import largest_micro_batch, learning_rate
from kkanji.training.signals import Ending
from shards import InputError, write_file


def begin_or_resume(run: Run, last: Path | None) -> str:
    """Begin a new run folder, or continue from a checkpoint: then returns what changes from there on, if anything.

    Raises InputError if the checkpoint is of another run.
    """
    if last is None:
        _begin(run)
        return ""
    return _resume(run, last)


def _begin(run: Run) -> None:
    init, name = run.config.network.init, run.config.network.model
    if has_weights(name) and not init:
        load_timm_weights(run.learner.network, name)
        run.learner.average.load(run.learner.network)
    if init:
        initial_weights(init, run.learner.network, run.data.classes)
        run.learner.average.load(run.learner.network)
    if run.is_main:
        _write_config(run)


def _write_config(run: Run) -> None:
    config = run.config.to_dict()
    content = {
        "config": config,
        "extensions": run.progress.extensions,
        "environment": environment(run.accelerator),
        "data": describe(run.data.shards) | run_lineage(config, run.data.shards.manifest).to_dict(),
    }
    folder = run.config.checkpointing.output
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "config.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _resume(run: Run, last: Path) -> str:
    state, learner = checkpoint.read_state(last), run.learner
    _require_same_run(run, state, last)
    checkpoint.load_training(last, learner.network, learner.average.model)
    checkpoint.load_optimizer(last, learner.optimizer.optimizer)
    for name, value in state["progress"].items():
        setattr(run.progress, name, value)
    run.progress.run, run.progress.extensions = checkpoint.run_identity(state), state.get("extensions", [])
    return "; ".join(filter(None, [_extension(run, state), _devices(run, state)]))


def _extension(run: Run, state: dict[str, Any]) -> str:
    """What --extend changes. It is written into config.json at once, and into every checkpoint from here on."""
    changes = run.config.changed(state["config"])
    if not changes:
        return ""
    step = run.progress.step
    _require_time_to_extend(run)
    epoch = run.plan.seen(step) / run.plan.samples
    run.progress.extensions.append({"step": step, "epoch": epoch, "changes": changes})
    if run.is_main:
        _write_config(run)
    rate = learning_rate(run.config, epoch, run.stretch)
    told = ", ".join(f"{flag(name)} {now} (was {before})" for name, (before, now) in changes.items())
    return f"extended after step {step}, epoch {epoch:.4g}: {told}; the learning rate goes on from {rate:.2e}"


def _require_time_to_extend(run: Run) -> None:
    """A limit of an earlier start may come with its config.json: the extension would end before its first step."""
    schedule, step, seconds = run.config.schedule, run.progress.step, run.progress.seconds
    limits = {
        f"--max-steps {schedule.max_steps}": run.last_step <= step < run.plan.steps,
        f"--max-minutes {schedule.max_minutes:g}": 0 < 60 * schedule.max_minutes <= seconds,
    }
    for limit in (limit for limit, passed in limits.items() if passed):
        found = f"{limit}: the run is past it, at step {step} after {seconds / 60:.1f} minutes, and cannot be extended"
        raise InputError(f"{found}; give a higher limit, or 0 for none")


def _devices(run: Run, state: dict[str, Any]) -> str:
    """What another number of ranks or another micro-batch changes."""
    count = run.rank.count
    before = state.get("processes", count)  # older checkpoints do not say
    own, theirs = run.config.runtime.micro_batch, read_options(state["config"])["micro_batch"]
    if (before, theirs) == (count, own):
        return ""
    images, others = (largest_micro_batch(run.plan, each, most) for each, most in ((count, own), (before, theirs)))
    ranks = "1 rank" if count == 1 else f"{count} ranks"
    found = f"goes on with {ranks}, {before} before: the same global batches, cut into at most {images}"
    if images == others:
        return f"{found} images as before; losses change only in the order of sums"
    return f"{found} images, {others} before; batch statistics are of as many images each, so losses change a little"


def _require_same_run(run: Run, state: dict[str, Any], path: Path) -> None:
    data = run.config.dataset.data
    if checkpoint.read_classes(path).identity() != run.data.classes.identity():
        raise InputError(f"{path}: a checkpoint of other classes than {data}; give the run's own data")
    if state["data"] != run.data.shards.manifest.identity():
        raise InputError(f"{path}: made with another shard set than {data}; give the run's own data")
    if run.config.sampling.lanes > 1 and state.get("order_version", 1) != ORDER_VERSION:
        remedy = f"begin a new run from these weights, with a new --output and --init {path}"
        raise InputError(f"{path}: of an earlier version, whose lanes had other images in each epoch; {remedy}")


def compare_ranks(run: Run) -> None:
    """End all ranks if they differ in position, weights or batch statistics."""

    def position_and_weights() -> dict[str, str]:
        models: dict[str, nn.Module | None] = {
            "weights": run.learner.network,
            "averaged weights": run.learner.average.model,
        }
        sums = {
            f"checksum of {name}": checksum(value for value in model.state_dict().values() if value.is_floating_point())
            for name, model in models.items()
            if model is not None
        }
        return {"step": str(run.progress.step), **sums}

    compare(position_and_weights, remedy="nothing was saved; --resume goes on from the last checkpoint")


def position(run: Run) -> dict[str, Any]:
    """Where a run is, after at least one step."""
    samples = run.plan.seen(run.progress.step)
    return {
        "step": run.progress.step,
        "samples": samples,
        "epoch": samples / run.plan.samples,
        "seconds": run.progress.seconds,
    }


class Saver:
    """Evaluates a run and saves its checkpoints. All ranks call each method at the same step."""

    def __init__(self, run: Run, log: RunLog, ending: Ending) -> None:
        self._run, self._log, self._ending = run, log, ending
        self._saved_step = run.progress.step

    def save_unsaved(self) -> None:
        """Save what no checkpoint has yet."""
        if self._saved_step != self._run.progress.step:
            self.save()

    def save_alone(self) -> bool:
        """After another rank was lost: save on the main process. The others' weights are the same after each step.

        Returns whether the last finished step is in a checkpoint.
        """
        self._run.learner.guard.raise_if_bad()
        if self._run.is_main and self._saved_step != self._run.progress.step:
            self._write(best=False)
        return self._run.is_main

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint; `best` points at it if it is the best so far."""
        self._require_good_weights()  # before a checkpoint takes the place of a good one
        together(partial(self._write, best=best))

    def _require_good_weights(self) -> None:
        self._run.learner.guard.raise_if_bad()
        compare_ranks(self._run)

    def _write(self, *, best: bool) -> None:
        run, learner = self._run, self._run.learner
        if run.is_main:
            path = checkpoint.save(
                run.config.checkpointing.output / "checkpoints",
                run.progress.step,
                model=learner.network,
                average=learner.average.model,
                optimizer=learner.optimizer.optimizer,
                state=_state(run),
                classes=run.data.classes,
                best=best,
            )
            self._log.note("checkpoint", f"saved {path}{' (best so far)' if best else ''}", path=str(path), best=best)
        self._saved_step = run.progress.step

    def evaluate_and_save(self) -> None:
        """At the end of an epoch. Without a validation split, the last checkpoint counts as the best.

        Raises Leaving on all ranks if one wants to leave meanwhile: a resumed run evaluates before it goes on.
        """
        run = self._run
        self._require_good_weights()  # before the time for an evaluation is spent
        best = "val" not in run.data.shards.manifest.splits or self._improved(self._evaluate())
        run.progress.evaluated_step = run.progress.step
        self.save(best=best)

    def _improved(self, summary: dict[str, Any]) -> bool:
        """Whether an evaluation is the best so far."""
        progress = self._run.progress
        best = math.isfinite(summary["loss"]) and summary["top1"] > progress.best_top1
        if best:
            progress.best_top1 = summary["top1"]
        return best

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate the validation split and log the result."""
        run, data, start = self._run, self._run.data, perf_counter()
        reader = data.shards.split("val")
        feed = unaugmented_feed(reader, len(data.classes), resident=data.resident.get("val"))
        predictions = predict_split(run.accelerator, run.learner.evaluated, feed, through=self._ending.through)
        summary = summarise(predictions, data.originals, data.classes.characters)
        rate = summary["images"] / (perf_counter() - start)
        at = position(run)
        self._log.evaluation(split="val", **at, **summary, images_per_s=rate)
        self._log.predictions(
            "val",
            at,
            predictions,
            characters=data.classes.characters,
            training_counts=data.originals,
            images_of=lambda numbers: reader.collect(numbers).images,
        )
        return summary


def _state(run: Run) -> dict[str, Any]:
    return {
        "progress": {name: value for name, value in asdict(run.progress).items() if name not in ("run", "extensions")},
        "stretch": asdict(run.stretch),
        "extensions": run.progress.extensions,
        "run": run.progress.run,
        "config": run.config.to_dict(),
        "data": run.data.shards.manifest.identity(),
        "order_version": ORDER_VERSION,
        "processes": run.rank.count,
        "training_originals": run.data.originals.tolist(),
        "training_rendered": run.data.rendered.tolist(),
    }
