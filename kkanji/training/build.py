"""A run built from its options: model, optimizer, data and progress."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedDataParallelKwargs
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kkanji.augment.policy import Policy
from kkanji.classes import ClassMap
from kkanji.config import SIZE_STEP, RegularisationOptions, TrainConfig
from kkanji.data.dali import Batch, Loader
from kkanji.data.feed import Feed
from kkanji.data.resident import ResidentImages, resident_images
from kkanji.data.training_set import training_order
from kkanji.environment import choose_kernels, loader_threads, stay_near
from kkanji.evaluation.predict_split import training_originals, training_rendered
from kkanji.models import compile_network, create_model, is_ours, stages_of
from kkanji.timm_models import require_size
from kkanji.training.agreement import alike
from kkanji.training.averages import BatchStatistics, NoAverage, WeightAverage, create_average
from kkanji.training.data_check import DataCheck
from kkanji.training.finite_guard import FiniteGuard, SampleReport
from kkanji.training.meter import Meter, Pace, peak_flops, training_flops
from kkanji.training.micro_batch import derive_micro_batch, resolve_micro_batch
from kkanji.training.objective import CrossEntropy, Distillation, Mixup, Objective, Teachers, class_weights
from kkanji.training.optimizers import create_optimizer
from kkanji.training.schedule import (
    WHOLE,
    Rank,
    Stretch,
    image_size,
    part_of,
    plan_of,
    resumed_stretch,
    spans,
    strength,
)
from shards import InputError, Order, Plan, ShardSet, SplitReader
from shards.format.layout import IMAGE_SIZE

WORK_POINTS = 32  # of a run at which the size of its images is looked up, to estimate the time left


@dataclass(kw_only=True, slots=True)
class Progress:
    """The state of a run that a checkpoint holds beside the weights."""

    step: int = 0
    """Optimizer steps done."""
    best_top1: float = -1.0
    evaluated_step: int = 0
    """The last step after which the run was evaluated."""
    seconds: float = 0.0
    """Time spent so far, over all resumptions."""
    run: str = ""
    """Identity of the run, by which it knows its own checkpoints, once it was resumed."""
    extensions: list[dict[str, Any]] = field(default_factory=list)
    """What --extend changed: the step, the epoch, and for each option its value before and after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """What a run trains and evaluates on."""

    shards: ShardSet
    classes: ClassMap
    reader: SplitReader
    """Of the training split."""
    order: Order
    originals: NDArray[np.int64]
    """Training images of each class that are originals [C]."""
    rendered: NDArray[np.int64]
    """Training images of each class that are rendered from fonts [C]."""
    resident: Mapping[str, ResidentImages]
    """For each split whose images stay on the device, where they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """The network and all that changes its weights."""

    model: nn.Module
    """As Accelerate prepared it: the forward pass of all ranks."""
    network: nn.Module
    """The same weights without any wrapper: what is saved."""
    mixup: Mixup
    objective: Objective
    optimizer: AcceleratedOptimizer
    guard: FiniteGuard
    average: WeightAverage | NoAverage
    statistics: BatchStatistics
    flops: Callable[[int], float]
    """Operations of training on an image, by the side of the image in pixels."""

    @property
    def evaluated(self) -> nn.Module:
        """The model to evaluate and to use: the average of the weights, if there is one."""
        return self.model if self.average.model is None else self.average.model

    def require_own_tensors(self) -> None:
        """Raises RuntimeError if a part has tensors that are not the network's: moving or wrapping may replace them."""
        own = {id(value) for value in (*self.network.parameters(), *self.network.buffers())}
        parts = {
            "model": (*self.model.parameters(), *self.model.buffers()),
            "optimizer": [value for group in self.optimizer.param_groups for value in group["params"]],
            "average": self.average.tensors,
            "statistics": self.statistics.tensors,
        }
        strangers = [name for name, values in parts.items() if any(id(value) not in own for value in values)]
        if strangers:
            raise RuntimeError(f"{strangers} made of tensors that the trained network no longer has")

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run, on one of its processes."""

    config: TrainConfig
    """Nothing in it is left open."""
    accelerator: Accelerator
    rank: Rank
    data: TrainingData
    plan: Plan
    learner: Learner
    progress: Progress
    stretch: Stretch = WHOLE

    @property
    def last_step(self) -> int:
        """Steps of the run, or those after which --max-steps ends it."""
        return min(self.plan.steps, self.config.schedule.max_steps or self.plan.steps)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's folder."""
        return bool(self.accelerator.is_main_process)


def create_accelerator(precision: str) -> Accelerator:
    """Accelerate's view of this process; precision: its own name of it, as in `precision_name`."""
    choose_kernels(benchmark=True)
    # Gradients lie where they are exchanged: otherwise each is copied there and back, and takes its memory twice.
    # Not static_graph: what it spares, a search for unused parameters, is off. On two gloo ranks losses are the same
    # bits with it, but where a step has several micro-batches, the first of them in `no_sync`, torch 2.14.1 stops with
    # "expect_autograd_hooks_ INTERNAL ASSERT FAILED" (reducer.cpp).
    views = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[views])
    stay_near(accelerator.device)
    return accelerator


def build_run(
    accelerator: Accelerator,
    config: TrainConfig,
    shards: ShardSet,
    classes: ClassMap,
    state: Mapping[str, Any] | None = None,
) -> Run:
    """A run before its first step. All ranks call this. Raises InputError if the options or the data are wrong.

    config: order, window and residence resolved; the micro-batch may be left open. state: of the checkpoint to go on
    from.
    """
    rank = Rank(index=accelerator.process_index, count=accelerator.num_processes)
    # Every rank seeds alike: the network begins with the same weights everywhere.
    torch.manual_seed(config.runtime.seed)
    network = alike(partial(_network, config, classes, accelerator))
    # Its memory counts as taken from here on.
    data = alike(partial(_training_data, config, shards, classes, accelerator.device))
    objective = alike(
        partial(_objective, config, data, accelerator)
    )  # before the memory that teachers leave is measured
    config = _with_micro_batch(config, network, accelerator)
    stretch = resumed_stretch(config, state, data.order.samples) if state else WHOLE
    plan = plan_of(config, data.order.samples, stretch)
    _require_statistics(config, network, plan, rank.count, stretch)
    samples = SampleReport(data.order, plan, config.checkpointing.output, write=accelerator.is_main_process)
    learner = _learner(config, network, objective, samples, accelerator)
    return Run(
        config=config,
        accelerator=accelerator,
        rank=rank,
        data=data,
        plan=plan,
        learner=learner,
        progress=Progress(),
        stretch=stretch,
    )


def _network(config: TrainConfig, classes: ClassMap, accelerator: Accelerator) -> nn.Module:
    drop_path = config.regularisation.drop_path
    network = create_model(config.network.model, len(classes), config.network.head, drop_path=drop_path)
    if config.schedule.start_size < IMAGE_SIZE and not is_ours(config.network.model):
        require_size(network, config.schedule.start_size)
    return network.to(memory_format=torch.channels_last).to(accelerator.device)


def _with_micro_batch(config: TrainConfig, network: nn.Module, accelerator: Accelerator) -> TrainConfig:
    """The micro-batch as given or derived from free memory, halved until a step with it fits on every rank.

    One that is larger than a rank's part of a batch stays as it is: with fewer ranks, a resumed run has use for it.
    """
    largest = -(-config.optimization.batch_size // accelerator.num_processes)
    wanted = config.runtime.micro_batch or derive_micro_batch(network, accelerator.device, largest)
    tried = min(wanted, largest)
    fitting = resolve_micro_batch(network, accelerator, tried)
    return config.with_options(micro_batch=wanted if fitting == tried else fitting)


def _require_statistics(config: TrainConfig, network: nn.Module, plan: Plan, ranks: int, stretch: Stretch) -> None:
    """Raises InputError if a micro-batch of one small image would leave batch normalisation a single value a channel.

    The first step has the smallest images, the last one may have the smallest micro-batches.
    """
    for step in {stretch.step, plan.steps - 1}:
        size = image_size(config, plan.seen(step) / plan.samples, stretch)
        every = (Rank(index=index, count=ranks) for index in range(ranks))
        spans = (span for rank in every for span in part_of(plan, step, rank, config.runtime.micro_batch).spans)
        if min(stop - start for start, stop in spans) == 1 and not _trains_on_one(network, size):
            sides = (side for side in range(size, IMAGE_SIZE + 1, SIZE_STEP) if _trains_on_one(network, side))
            enough = next(sides, None)
            found = f"step {step + 1} has a micro-batch of one image of {size} pixels, of which batch normalisation"
            larger = f"--start-size {enough}, or " if enough else ""
            remedy = f"give {larger}batches that leave each micro-batch two images"
            raise InputError(f"{found} makes one value a channel, and it needs two; {remedy}")


def _trains_on_one(network: nn.Module, size: int) -> bool:
    trial = copy.deepcopy(network).train()
    try:
        with torch.no_grad():
            trial(torch.zeros(1, 1, size, size, device=next(trial.parameters()).device))
    except ValueError:  # torch's, of batch normalisation
        return False
    return True


def _training_data(config: TrainConfig, shards: ShardSet, classes: ClassMap, device: torch.device) -> TrainingData:
    reader = shards.split("train", threads=loader_threads())
    return TrainingData(
        shards=shards,
        classes=classes,
        reader=reader,
        order=training_order(config, shards, reader),
        originals=training_originals(shards),
        rendered=training_rendered(shards),
        resident=resident_images(config, shards, device),
    )


def _learner(
    config: TrainConfig, network: nn.Module, objective: Objective, samples: SampleReport, accelerator: Accelerator
) -> Learner:
    optimization = config.optimization
    flops = cache(partial(training_flops, copy.deepcopy(network).cpu()))  # of a copy that is never compiled
    if config.runtime.compile:
        compile_network(network)
    model = distributed(accelerator, network)
    # DDP replaces the buffers of CPU ranks, so whatever keeps tensors of the network is made after it has wrapped it.
    name, lr, weight_decay = optimization.optimizer, optimization.lr, optimization.weight_decay
    optimizer = create_optimizer(network, name, lr=lr, weight_decay=weight_decay)
    return Learner(
        model=model,
        network=network,
        mixup=_mixup(config.regularisation, network),
        objective=objective,
        optimizer=accelerator.prepare(optimizer),
        guard=FiniteGuard(network.parameters(), accelerator.device, samples, most=optimization.clip_norm),
        average=create_average(network, optimization.ema_images),
        statistics=BatchStatistics(network, accelerator),
        flops=flops,
    )


def distributed(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """The network as all ranks train it. Each has its own batch statistics, of its own images."""
    model: nn.Module = accelerator.prepare(network)
    if isinstance(model, DistributedDataParallel):
        # By default rank 0's take the place of all others' before each forward pass. Not by the constructor's option:
        # torch 2.14 warns that it is deprecated, and 2.11 has no other.
        model.broadcast_buffers = False
    return model


def _mixup(options: RegularisationOptions, network: nn.Module) -> Mixup:
    stages_of(network, needed=options.mixup_stages)
    return Mixup(alpha=options.mixup, stages=options.mixup_stages)


def _objective(config: TrainConfig, data: TrainingData, accelerator: Accelerator) -> Objective:
    options = config.regularisation
    weights = class_weights(
        torch.tensor(data.shards.manifest.splits["train"].samples_per_class),
        config.optimization.class_weight_exponent,
    )
    labels = CrossEntropy(
        smoothing=options.label_smoothing, weights=None if weights is None else weights.to(accelerator.device)
    )
    if not options.teachers:
        return labels
    trained = torch.as_tensor(data.originals + data.rendered)
    teachers = Teachers(options.teachers, data.classes, trained, accelerator.device)
    return Distillation(
        labels=labels, teachers=teachers, weight=options.distillation_weight, autocast=accelerator.autocast
    )


def create_loader(run: Run, first_step: int) -> Loader:
    """The loader of this rank's micro-batches from a step to the end of the run."""
    micro_batch = run.config.runtime.micro_batch
    feed = Feed(
        reader=run.data.reader,
        order=run.data.order,
        classes=len(run.data.classes),
        policy=Policy() if run.config.augments else None,
        strength=partial(strength, run.config, run.stretch),
        resident=run.data.resident.get("train"),
    )
    parts = spans(run.plan, first_step, run.rank, micro_batch)
    return Loader(feed, parts, run.accelerator.device, largest=micro_batch, threads=loader_threads())


def blank_batch(run: Run) -> Batch:
    """Black images for a rank that takes part in a step only to leave it.

    On a GPU as many as always, as a compiled network is compiled again for other shapes. Two elsewhere.
    """
    device = run.accelerator.device
    count = run.config.runtime.micro_batch if device.type == "cuda" else 2
    images = torch.zeros(count, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=device)
    return Batch(images=images, labels=torch.zeros(count, dtype=torch.int64, device=device))


def create_meter(run: Run, loader: Loader) -> Meter:
    """The meter of a run's steps."""
    return Meter(run.accelerator.device, loader, run.data.reader, peak_flops=run_peak_flops(run))


def create_pace(run: Run) -> Pace:
    """The clock of a run. Its work is the operations of training, which grow with the images."""

    def work(start: int, stop: int) -> float:
        points = (
            (start + (stop - start) * (number + 0.5) / WORK_POINTS) / run.plan.samples for number in range(WORK_POINTS)
        )
        sizes = (image_size(run.config, epoch, run.stretch) for epoch in points)
        return (stop - start) * sum(map(run.learner.flops, sizes)) / WORK_POINTS

    progress, most_s = run.progress, 60 * run.config.schedule.max_minutes
    return Pace(seconds=progress.seconds, seen=run.plan.seen(progress.step), most_s=most_s, work=work)


def run_peak_flops(run: Run) -> float | None:
    """Operations per second of the device in the precision of the run; None if unknown."""
    reduced = run.accelerator.mixed_precision == "bf16"
    return peak_flops(run.accelerator.device, torch.bfloat16 if reduced else torch.float32)


def create_data_check(run: Run) -> DataCheck:
    """The background check of the splits that the run uses. It ends before the first epoch does."""
    shards, trusted = run.data.shards, run.config.dataset.trust
    used = [name for name in ("train", "val") if name in shards.manifest.splits and not trusted]
    return DataCheck(run.accelerator, shards, *used)
