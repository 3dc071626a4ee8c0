"""The training loop. Everything a step depends on follows from the options and the samples seen: a run that is stopped
anywhere and resumed computes what an undisturbed one computes."""

import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import accelerate
import psutil
import timm
import torch
from accelerate import Accelerator
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from kkanji import __version__, checkpoint
from kkanji.augment import Policy
from kkanji.classes import ClassMap
from kkanji.config import TrainConfig
from kkanji.data import class_map, open_set, settle_order, training_order
from kkanji.evaluate import describe, plain_feed, predict_split, training_originals
from kkanji.memory import derive_micro_batch
from kkanji.metrics import TOP, summarise
from kkanji.models import create_model
from kkanji.pipeline import Batch, Feed, Loader
from kkanji.pixels import normalise
from kkanji.runlog import RunLog
from kkanji.schedule import Worker, learning_rate, micro_batches, stretches
from shards import InputError, Plan, ShardSet, SplitReader, write_file
from shards.permutation import mix


@dataclass(kw_only=True, slots=True)
class Progress:
    """The state of a run that a checkpoint holds beside the weights."""

    step: int = 0
    """Optimizer steps done."""
    best_top1: float = -1.0
    seconds: float = 0.0
    """Spent so far, over all resumptions."""


def train(config: TrainConfig) -> None:
    """Run a training from its options to its last checkpoint. Raises InputError for what the user can mend."""
    accelerator = Accelerator(mixed_precision=_precision(config.precision))
    _warn_of_idle_cores(accelerator)
    data = open_set(config.data, cache_size=config.cache_size)
    last = checkpoint.newest(config.output / "checkpoints") if config.resume else None
    saved = checkpoint.read_state(last)["config"] if last else {}
    trainer = Trainer(accelerator, config.settled_as(saved), data, class_map(data))
    trainer.start_or_resume(last)
    accelerator.wait_for_everyone()  # all ranks look for an earlier run before the main one begins its log
    trainer.run()


class Trainer:
    """One run: model, optimizer, data and progress, on one process."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, data: ShardSet, classes: ClassMap) -> None:
        self.accelerator = accelerator
        self.data, self.classes = data, classes
        self.originals = training_originals(data)
        self.worker = Worker(rank=accelerator.process_index, ranks=accelerator.num_processes)
        self.reader = data.split("train", threads=config.threads)
        self.progress = Progress()
        torch.manual_seed(config.seed)
        bare = create_model(config.model, len(classes)).to(memory_format=torch.channels_last)
        share = -(-config.batch_size // self.worker.ranks)
        micro = config.micro_batch or derive_micro_batch(bare, accelerator.device, share)
        self.config = settle_order(replace(config, micro_batch=min(micro, share)), data)
        self.order = training_order(self.config, data, self.reader)
        self.plan = Plan(samples=self.order.samples, epochs=config.epochs, batch_size=config.batch_size)
        self.model = accelerator.prepare(bare)
        self.optimizer = accelerator.prepare(create_optimizer(bare, config))

    def start_or_resume(self, last: Path | None) -> None:
        """Begin a new run folder, or take up the last good checkpoint of an old one."""
        if last is None:
            _refuse_used(self.config)
            if self.accelerator.is_main_process:
                self._write_config()
            return
        state = checkpoint.read_state(last)
        self._check_same_run(state, last)
        checkpoint.load_model(last, self.accelerator.unwrap_model(self.model))
        checkpoint.load_optimizer(last, self.optimizer.optimizer)
        self.progress = Progress(**state["progress"])

    def run(self) -> None:
        """All steps that are left."""
        first = self.progress.step
        seen = self.plan.batch(first)[0]
        with (
            RunLog(self.config.output, total_images=self.plan.total, seen_images=seen, enabled=self._main) as log,
            self._loader(first) as loader,
        ):
            self._announce(log)
            batches, meter = iter(loader), Meter(self.accelerator.device, loader, self.reader)
            started = perf_counter() - self.progress.seconds
            for step in range(first, self.plan.steps):
                self._step(step, batches, meter)
                self.progress.step, self.progress.seconds = step + 1, perf_counter() - started
                self._after_step(log, meter)

    def _step(self, step: int, batches: Iterator[Batch], meter: "Meter") -> None:
        """One optimizer step: the gradient of the mean loss over the global batch, however it is cut."""
        start, stop = self.plan.batch(step)
        parts = micro_batches(self.plan, step, self.worker, self.config.micro_batch)
        share = self.plan.share(step, self.worker.rank, self.worker.ranks)
        self._set_learning_rate(learning_rate(self.config, start / self.plan.samples))
        self.model.train()
        weight = self.worker.ranks / (stop - start) if share[0] < share[1] else 0.0  # DDP averages over ranks
        for number, (first, _) in enumerate(parts):
            batch = next(batches)
            torch.manual_seed(mix(mix(self.config.seed) ^ first) >> 1)  # dropout follows from the position too
            last = number == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    logits = self.model(normalise(batch.images))
                loss = _summed_loss(logits.float(), batch.labels, self.config.label_smoothing)
                self.accelerator.backward(loss * weight)
            if weight:
                meter.add(logits.detach(), batch.labels, loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _after_step(self, log: RunLog, meter: "Meter") -> None:
        step, plan = self.progress.step, self.plan
        finished = step == plan.steps
        epoch_ended = plan.epochs_done(step) > plan.epochs_done(step - 1)
        if step % self.config.log_every == 0 or epoch_ended or finished:
            log.step(**self._position(), lr=self.optimizer.param_groups[0]["lr"], **meter.read(self.accelerator, step))
        if epoch_ended or finished:
            self._evaluate_and_save(log)
            meter.restart()
        elif self.config.save_every and step % self.config.save_every == 0:
            self._save(log, best=False)
            meter.restart()

    def _evaluate_and_save(self, log: RunLog) -> None:
        """At the end of an epoch. A set without a validation split is trained on without being evaluated."""
        if "val" not in self.data.manifest.splits:
            self._save(log, best=True)
            return
        start = perf_counter()
        predictions = predict_split(self.accelerator, self.model, plain_feed(self.data.split("val"), len(self.classes)))
        summary = summarise(predictions, self.originals)
        rate = summary["images"] / (perf_counter() - start)
        del summary["bins"]
        log.evaluation(split="val", **self._position(), **summary, images_per_s=rate)
        best = summary["top1"] > self.progress.best_top1
        self.progress.best_top1 = max(summary["top1"], self.progress.best_top1)
        self._save(log, best=best)

    def _save(self, log: RunLog, *, best: bool) -> None:
        if self._main:
            path = checkpoint.save(
                self.config.output / "checkpoints",
                self.progress.step,
                model=self.accelerator.unwrap_model(self.model),
                optimizer=self.optimizer.optimizer,
                state=self._state(),
                classes=self.classes,
                best=best,
            )
            log.note("checkpoint", f"saved {path}{' (best so far)' if best else ''}", path=str(path), best=best)
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        return {
            "progress": asdict(self.progress),
            "config": self.config.to_dict(),
            "data": self.data.manifest.identity(),
            "training_originals": self.originals.tolist(),
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
        policy = Policy().scaled(self.config.augment) if self.config.augment else None
        feed = Feed(reader=self.reader, order=self.order, classes=len(self.classes), policy=policy)
        micro = self.config.micro_batch
        parts = stretches(self.plan, first, self.worker, micro)
        return Loader(feed, parts, self.accelerator.device, largest=micro, threads=self.config.threads)

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _write_config(self) -> None:
        content = {
            "config": self.config.to_dict(),
            "environment": environment(self.accelerator),
            "data": describe(self.data),
        }
        self.config.output.mkdir(parents=True, exist_ok=True)
        write_file(self.config.output / "config.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)


class Meter:
    """Sums over the steps since the last log line, on the device until they are read."""

    def __init__(self, device: torch.device, loader: Loader, reader: SplitReader) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)
        self._loader, self._reader = loader, reader
        self.restart()

    def restart(self) -> None:
        """Leave the time until now, an evaluation's for example, out of the rates."""
        self._start, self._waited = perf_counter(), self._loader.wait_s
        self._fetched = self._reader.traffic().get("fetched_bytes", 0)

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a micro-batch: logits [B, C], labels [B], loss summed over it."""
        right = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
        counts = torch.stack([loss.double(), right[:, 0].sum().double(), right.sum().double()])
        self._sums[:3] += counts
        self._sums[3] += len(labels)

    def read(self, accelerator: Accelerator, step: int) -> dict[str, float]:
        """Means over all ranks since the last reading. Raises InputError when the loss is not finite."""
        loss, top1, top5, images = accelerator.reduce(self._sums, reduction="sum").tolist()
        elapsed, waited = perf_counter() - self._start, self._loader.wait_s - self._waited
        traffic = self._traffic(elapsed)
        self._sums.zero_()
        self.restart()
        if not math.isfinite(loss):
            raise InputError(f"step {step}: the loss is {loss}; resume from the last checkpoint with a lower --lr")
        means = {"loss": loss / images, "top1": top1 / images, "top5": top5 / images}
        return means | {"images_per_s": images / elapsed, "wait_share": waited / elapsed} | traffic

    def _traffic(self, elapsed: float) -> dict[str, float]:
        """This process's streaming since the start, and its rate since the last reading; empty for a local set."""
        traffic = {name: float(value) for name, value in self._reader.traffic().items()}
        if traffic:
            traffic["fetched_mb_per_s"] = (traffic["fetched_bytes"] - self._fetched) / 1e6 / elapsed
        return traffic


def create_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimizer asked for, in PyTorch's fused form; norms and biases are not decayed."""
    groups = param_groups_weight_decay(model, config.weight_decay)
    if config.optimizer == "adam":
        return Adam(groups, lr=config.lr, amsgrad=True, fused=True)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, fused=True)
    return SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=True)


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """What a result depends on beside options and data."""
    return {
        "kkanji": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "device": _device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _summed_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")


def _precision(wanted: str) -> str:
    """Accelerate's name of the precision."""
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return {"float32": "no", "bfloat16": "bf16"}[wanted]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}: {platform.processor() or platform.machine()}, {psutil.cpu_count()} cores"


def commit() -> str | None:
    """The checkout's commit, if kkanji runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


def _warn_of_idle_cores(accelerator: Accelerator) -> None:
    """`accelerate launch` gives each process one thread unless told otherwise."""
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if accelerator.device.type == "cpu" and accelerator.is_main_process and threads * accelerator.num_processes < cores:
        remedy = "give accelerate launch --num_cpu_threads_per_process, or set OMP_NUM_THREADS"
        warnings.warn(f"torch uses {threads} thread(s) a process on {cores} cores; {remedy}", UserWarning, stacklevel=2)


def _refuse_used(config: TrainConfig) -> None:
    """A new run never writes into the folder of another one."""
    if (config.output / "log.jsonl").exists() and not config.resume:
        raise InputError(f"{config.output}: holds a run already; give --resume to go on with it, or a new --output")
