"""The training loop. Everything a step depends on follows from the options and the samples seen: a run that is stopped
anywhere and resumed computes what an undisturbed one computes."""

import copy
import gc
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kkanji import checkpoint
from kkanji.augment.policy import Policy
from kkanji.checkpoint.lineage import learned_from
from kkanji.checkpoint.load import initial_weights
from kkanji.classes import ClassMap
from kkanji.config import TrainConfig
from kkanji.data.dali import Batch, Loader
from kkanji.data.feed import Feed
from kkanji.data.training_set import training_order
from kkanji.environment import environment, loader_threads, warn_of_emulation, warn_of_idle_cores
from kkanji.evaluation.metrics import summarise
from kkanji.evaluation.predict_split import (
    describe,
    predict_split,
    training_originals,
    training_rendered,
    unaugmented_feed,
)
from kkanji.models import create_model, stages_of
from kkanji.pixels import normalise, resized
from kkanji.training.agreement import agree, checksum, compare, together
from kkanji.training.data_check import DataCheck
from kkanji.training.distillation import Teachers
from kkanji.training.ema import WeightAverage
from kkanji.training.finite_guard import FiniteGuard
from kkanji.training.flops import peak_flops, training_flops
from kkanji.training.meter import Meter
from kkanji.training.micro_batch import derive_micro_batch, resolve_micro_batch
from kkanji.training.mixup import Mixing, sample_mixing
from kkanji.training.optimizers import create_optimizer
from kkanji.training.profiling import profiled, watched, without_garbage_collection
from kkanji.training.run_log import RunLog
from kkanji.training.schedule import Worker, image_size, learning_rate, micro_batches, spans, strength
from kkanji.training.signals import Interruption, leave
from shards import InputError, Plan, ShardSet, write_file
from shards.order.permutation import mix


@dataclass(kw_only=True, slots=True)
class Progress:
    """The state of a run that a checkpoint holds beside the weights."""

    step: int = 0
    """Optimizer steps done."""
    best_top1: float = -1.0
    seconds: float = 0.0
    """Spent so far, over all resumptions."""


def train(config: TrainConfig, data: ShardSet) -> None:
    """Run a training on a set from its options to its last checkpoint. Raises InputError for what the user can mend."""
    with ExitStack() as held:
        agreed = agree(config, data, held)
        accelerator = Accelerator(mixed_precision=agreed.precision)
        warn_of_idle_cores(accelerator)
        warn_of_emulation(accelerator)
        trainer = Trainer(accelerator, agreed.config, data, agreed.classes)
        together(partial(trainer.start_or_resume, agreed.checkpoint))  # before the main one begins its log
        trainer.run()


class Trainer:
    """One run: model, optimizer, data and progress, on one process."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, data: ShardSet, classes: ClassMap) -> None:
        self.accelerator = accelerator
        self.data, self.classes = data, classes
        self.originals, self.rendered = training_originals(data), training_rendered(data)
        self.lineage: str = data.manifest.lineage
        self.worker = Worker(rank=accelerator.process_index, ranks=accelerator.num_processes)
        self.reader = data.split("train", threads=loader_threads())
        self.progress = Progress()
        self.saved_step = 0
        torch.manual_seed(config.seed)
        bare = create_model(config.model, len(classes), config.head, drop_path=config.drop_path)
        bare = bare.to(memory_format=torch.channels_last)
        self.stages = stages_of(bare, config.mixup_stages)
        bare.to(accelerator.device)
        trained = torch.as_tensor(self.originals + self.rendered)
        self.teachers = Teachers(config.teachers, self.classes, trained, accelerator.device)
        share = -(-config.batch_size // self.worker.ranks)
        micro = config.micro_batch or derive_micro_batch(bare, accelerator.device, share)
        micro = resolve_micro_batch(bare, accelerator, min(micro, share))
        self.config = replace(config, micro_batch=micro)
        self.order = training_order(self.config, data, self.reader)
        self.plan = Plan(samples=self.order.samples, epochs=config.epochs, batch_size=config.batch_size)
        self.flops = cache(partial(training_flops, copy.deepcopy(bare).cpu()))
        if config.compile:
            bare.compile()
        self.model = accelerator.prepare(bare)  # on CPU ranks it replaces the buffers, so what holds any comes after
        self.average = WeightAverage(bare, config.ema_images) if config.ema_images else None
        optimizer = create_optimizer(bare, config.optimizer, lr=config.lr, weight_decay=config.weight_decay)
        self.optimizer = accelerator.prepare(optimizer)
        self.guard = FiniteGuard(optimizer, accelerator.device, self._tell_samples)

    def start_or_resume(self, last: Path | None) -> None:
        """Begin a new run folder, or take up the last good checkpoint of an old one."""
        if last is None:
            if self.config.init:
                self._initialise(self.config.init)
            self._judge_lineage()
            if self.accelerator.is_main_process:
                self._write_config()
            return
        state = checkpoint.read_state(last)
        self._check_same_run(state, last)
        checkpoint.load_training(last, self.accelerator.unwrap_model(self.model), self._averaged)
        checkpoint.load_optimizer(last, self.optimizer.optimizer)
        self.progress = Progress(**state["progress"])
        self.saved_step = self.progress.step

    def _initialise(self, source: Path) -> None:
        """Begin with the weights of another run, characters matched by their code points."""
        model = self.accelerator.unwrap_model(self.model)
        initial_weights(source, model, self.classes)
        if self.average:
            self.average.model.load_state_dict(model.state_dict())

    def _judge_lineage(self) -> None:
        """Unknown if the run learns from others that may have been trained on other sets."""
        for source in learned_from(self.config.to_dict()):
            state = checkpoint.read_state(source)
            config = state["config"]  # an exported checkpoint's says neither where its data was nor what it began with
            same = "data" in config and state.get("data") == self.data.manifest.identity()
            if not same or learned_from(config):
                self.lineage = f"unknown: it learned from {source}, which other sets may have trained"

    def run(self) -> None:
        """All steps that are left."""
        self._require_current_tensors()
        self._compare_ranks()
        first = self.progress.step
        seen = min(self.plan.batch(first)[0], self.plan.total)  # the last batch may be shorter
        with (
            RunLog(
                self.config.output,
                total_images=self.plan.total,
                seen_images=seen,
                enabled=self._main,
                options=self.config.to_dict(),
            ) as log,
            self._loader(first) as loader,
            self._data_check() as check,
            Interruption() as interruption,
            profiled(self.config.profile_steps, self.config.output / "profile") as profiler,
            without_garbage_collection(),
            watched(self.config.stall_seconds) as still_moving,
        ):
            self._announce(log)
            batches, meter = iter(loader), self._meter(loader)
            started = perf_counter() - self.progress.seconds
            for step in range(first, self.plan.steps):
                still_moving()
                while not check.passed(whole=self._ends_epoch(step)):
                    still_moving()
                    self._leave_if_asked(log, interruption)
                self._step(step, batches, meter)
                self.progress.step, self.progress.seconds = step + 1, perf_counter() - started
                still_moving()
                self._after_step(log, meter)
                profiler.step()
                self._leave_if_asked(log, interruption)

    def _data_check(self) -> DataCheck:
        """Of what is trained and evaluated on; it has ended when the first epoch does."""
        used = [name for name in ("train", "val") if name in self.data.manifest.splits and not self.config.trust]
        return DataCheck(self.accelerator, self.data, *used)

    def _ends_epoch(self, step: int) -> bool:
        return self.plan.epochs_done(step + 1) > self.plan.epochs_done(step)

    def _step(self, step: int, batches: Iterator[Batch], meter: Meter) -> None:
        """One optimizer step: the gradient of the mean loss over the global batch, however it is cut."""
        start, stop = self.plan.batch(step)
        parts = micro_batches(self.plan, step, self.worker, self.config.micro_batch)
        share = self.plan.rank_span(step, self.worker.rank, self.worker.ranks)
        epoch = start / self.plan.samples
        self._set_learning_rate(learning_rate(self.config, epoch))
        size = image_size(self.config, epoch)
        self.model.train()
        weight = self.worker.ranks / (stop - start) if share[0] < share[1] else 0.0  # DDP averages over ranks
        for number, (first, _) in enumerate(parts):
            batch = next(batches)
            torch.manual_seed(mix(mix(self.config.seed) ^ first) >> 1)  # for dropout and mixing
            mixing = sample_mixing(self.config.mixup, self.config.mixup_stages, batch.images.device)
            last = number == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                pixels = normalise(batch.images)
                with self.accelerator.autocast(), mixing.within(self.stages):
                    logits = self.model(mixing.of_images(resized(pixels, size)))
                loss = mixing.summed_loss(logits.float(), batch.labels, self.config.label_smoothing)
                if self.config.teachers:
                    loss = torch.lerp(
                        loss, self._distillation_loss(mixing, logits, pixels), self.config.distillation_weight
                    )
                self.accelerator.backward(loss * weight)
            if weight:
                meter.add(logits.detach(), batch.labels, loss.detach(), flops=len(batch.labels) * self.flops(size))
        self.guard.check(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(stop - start, stop)

    def _distillation_loss(self, mixing: Mixing, logits: Tensor, pixels: Tensor) -> Tensor:
        with self.accelerator.autocast():
            probabilities = self.teachers.probabilities(pixels)
        return mixing.distillation_loss(logits.float(), probabilities)

    def _tell_samples(self, step: int) -> str:
        """Where the numbers of a step's samples are kept, for a look at them."""
        numbers = self.order.at(*self.plan.batch(step)).tolist()
        path = self.config.output / "not-finite.json"
        if self._main:
            write_file(path, json.dumps({"step": step + 1, "split": "train", "samples": numbers}) + "\n")
        return f"{len(numbers):,} samples of split train, {', '.join(map(str, numbers[:3]))} ... (all: {path})"

    def _after_step(self, log: RunLog, meter: Meter) -> None:
        step, plan = self.progress.step, self.plan
        finished = step == plan.steps
        epoch_ended = self._ends_epoch(step - 1)
        if step % self.config.log_every == 0 or epoch_ended or finished:
            self.guard.raise_if_bad()
            log.step(**self._position(), lr=self.optimizer.param_groups[0]["lr"], **meter.read(self.accelerator))
            gc.collect()
        if finished or (epoch_ended and plan.epochs_done(step) % self.config.evaluate_every == 0):
            with meter.left_out():
                self._evaluate_and_save(log)
        elif epoch_ended or (self.config.save_every and step % self.config.save_every == 0):
            with meter.left_out():
                self._save(log, best=False)

    def _leave_if_asked(self, log: RunLog, interruption: Interruption) -> None:
        """Save and leave between two steps, when all ranks agree that one of them was sent a signal."""
        number = interruption.agreed()
        if number:
            if self.saved_step != self.progress.step:
                self._save(log, best=False)
            leave(number)

    def _evaluate_and_save(self, log: RunLog) -> None:
        """At the end of an epoch. A set without a validation split is trained on without being evaluated."""
        if "val" not in self.data.manifest.splits:
            self._save(log, best=True)
            return
        start = perf_counter()
        model = self._averaged or self.model
        reader = self.data.split("val")
        predictions = predict_split(self.accelerator, model, unaugmented_feed(reader, len(self.classes)))
        summary = summarise(predictions, self.originals)
        rate = summary["images"] / (perf_counter() - start)
        del summary["bins"]
        position = self._position()
        log.evaluation(split="val", **position, **summary, images_per_s=rate)
        log.predictions(
            "val",
            position["samples"],
            predictions,
            characters=self.classes.characters,
            training_counts=self.originals,
            images_of=lambda numbers: reader.collect(numbers).images,
        )
        best = math.isfinite(summary["loss"]) and summary["top1"] > self.progress.best_top1
        if best:
            self.progress.best_top1 = summary["top1"]
        self._save(log, best=best)

    def _require_current_tensors(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if self.average and not self.average.follows(model):
            raise RuntimeError("the average was made of tensors that the trained model no longer has")

    def _compare_ranks(self) -> None:
        """Position and weights must be the same on all ranks; batch statistics are each rank's own until they are
        averaged, so they are not compared."""
        compare(self._position_and_weights, remedy="nothing was saved; --resume goes on from the last checkpoint")

    def _position_and_weights(self) -> dict[str, str]:
        models = {"weights": self.accelerator.unwrap_model(self.model), "averaged weights": self._averaged}
        sums = {
            f"checksum of {name}": checksum(model.parameters()) for name, model in models.items() if model is not None
        }
        return {"step": str(self.progress.step), **sums}

    def _save(self, log: RunLog, *, best: bool) -> None:
        self._compare_ranks()  # before a checkpoint takes the place of a good one
        if self._main:
            path = checkpoint.save(
                self.config.output / "checkpoints",
                self.progress.step,
                model=self.accelerator.unwrap_model(self.model),
                average=self._averaged,
                optimizer=self.optimizer.optimizer,
                state=self._state(),
                classes=self.classes,
                best=best,
            )
            log.note("checkpoint", f"saved {path}{' (best so far)' if best else ''}", path=str(path), best=best)
        self.saved_step = self.progress.step
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "config": self.config.to_dict(),
            "data": self.data.manifest.identity(),
            "training_originals": self.originals.tolist(),
            "training_drawn": self.rendered.tolist(),
        }

    def _check_same_run(self, state: dict[str, Any], path: Path) -> None:
        """Refuse to go on with other options, other data or other classes, field by field."""
        self.config.check_resumes(state["config"])
        if checkpoint.read_classes(path).identity() != self.classes.identity():
            raise InputError(f"{path}: a checkpoint of other classes than {self.config.data}; give the run's own data")
        if state["data"] != self.data.manifest.identity():
            raise InputError(f"{path}: made with another shard set than {self.config.data}; give the run's own data")

    def _announce(self, log: RunLog) -> None:
        config, device = self.config, self.accelerator.device.type
        log.note(
            "start",
            f"{config.model} on {self.data.manifest.name}: "
            f"{self.plan.samples:,} images of {len(self.classes)} classes, "
            f"steps {self.progress.step}..{self.plan.steps} of {config.batch_size} images, "
            f"{self.worker.ranks} x {device} in micro-batches of {config.micro_batch}",
            step=self.progress.step,
        )

    def _position(self) -> dict[str, Any]:
        samples = self.plan.batch(self.progress.step - 1)[1]
        return {
            "step": self.progress.step,
            "samples": samples,
            "epoch": samples / self.plan.samples,
            "seconds": self.progress.seconds,
        }

    def _loader(self, first: int) -> Loader:
        """This rank's micro-batches from step `first` on."""
        feed = Feed(
            reader=self.reader,
            order=self.order,
            classes=len(self.classes),
            policy=Policy() if self.config.augment else None,
            strength=partial(strength, self.config),
        )
        micro = self.config.micro_batch
        parts = spans(self.plan, first, self.worker, micro)
        return Loader(feed, parts, self.accelerator.device, largest=micro, threads=loader_threads())

    def _meter(self, loader: Loader) -> Meter:
        return Meter(self.accelerator.device, loader, self.reader, peak_flops=self._peak_flops)

    @property
    def _peak_flops(self) -> float | None:
        """Of the device, in the precision of the run."""
        reduced = self.accelerator.mixed_precision == "bf16"
        return peak_flops(self.accelerator.device, torch.bfloat16 if reduced else torch.float32)

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _write_config(self) -> None:
        content = {
            "config": self.config.to_dict(),
            "environment": environment(self.accelerator),
            "data": describe(self.data) | {"lineage": self.lineage},
        }
        self.config.output.mkdir(parents=True, exist_ok=True)
        write_file(self.config.output / "config.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @property
    def _averaged(self) -> nn.Module | None:
        """The model to evaluate and to keep, if it is not the trained one itself."""
        return self.average.model if self.average else None

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)
