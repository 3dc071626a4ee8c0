"""The options of a training run: values in groups, checked, saved with the run; the command line is made from them.

A field's name is its flag, so no two groups may have a field of the same name. What is rarely set has no flag: its type
is `Fixed`, for tyro, and it is set in a configuration file (`kkanji/config_files.py`).
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import tyro
from tyro.conf import Fixed

from shards import InputError
from shards.format.layout import IMAGE_SIZE

Head = Literal["linear", "cosine"]
OptimizerName = Literal["adam", "adamw", "sgd", "lamb", "muon"]
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
MOST_EPOCHS, MOST_DRAWS, MOST_SEED = 10**6, 10**9, 2**63 - 1  # positions and seeds are 64-bit numbers
SIZE_STEP = 8  # pixels; below it the networks' maps do not shrink evenly


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """The images to train on, and where they are kept."""

    data: str
    """Shard set: a folder made by `kkanji pack` or `balance`, or a URL (s3://, gs://, az://, https://)."""
    cache_size: float = 0.0
    """Disk space in gigabytes for shards that are streamed or unpacked, in $KKANJI_CACHE or ~/.cache/kkanji. 0 takes
    80 % of the free space."""
    residence: Literal["auto", "device", "host"] = "auto"
    """Where images stay once they were read. device keeps them in the device's memory, or on the host if they take more
    than half of what is free; host reads them anew each time; auto is device on GPUs and host on CPUs."""
    trust: bool = False
    """Skip the background check of a local set's shards. Meant for a set that was verified a moment ago."""

    def __post_init__(self) -> None:
        _require_at_least(self, 0.0, "cache_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderOptions:
    """Which images come when."""

    order: Literal["auto", "full", "windowed", "balanced"] = "auto"
    """Order of the images. full shuffles the whole set; windowed shuffles a few shards at a time, for sets larger than
    the disk; balanced samples classes evenly; auto takes full if the set is local or fits into the cache, else
    windowed."""
    window: int = 0
    """Shards that order windowed shuffles together. 0 takes 8, or as many as the cache has room for."""
    lanes: Fixed[int] = 1
    """Parts that order windowed divides the shards into. With a multiple of the number of nodes, each node fetches only
    its own part."""
    draws_per_class: int = 10_000
    """Images per class in an epoch of order balanced, on average over the classes."""
    draw_exponent: Fixed[float] = 0.0
    """Exponent e from 0 to 1: order balanced samples a class of n images in proportion to n**e. 0 samples all classes
    alike, 1 as they occur."""

    def __post_init__(self) -> None:
        _require_at_least(self, 1, "lanes", "draws_per_class")
        _require_at_most(self, MOST_DRAWS, "draws_per_class")
        _require_at_least(self, 0, "window")
        _require(0 <= self.draw_exponent <= 1, "draw_exponent", self.draw_exponent, "from 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """The network and its first weights."""

    model: str = "kkanji_efficientnet_b0"
    """Network: kkanji_efficientnet_b0 to b7, fused_s, fused_m, or one of timm's by its name, such as resnet18. A name
    with a tag, resnet18.a1_in1k, begins with timm's weights, if they are on this machine."""
    head: Head = "linear"
    """Classifier on top of the network. cosine compares directions only, which helps rare classes."""
    init: Path | None = None
    """Checkpoint or exported folder of the same network to take the first weights from. Classes are matched by their
    characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerOptions:
    """How gradients become weights."""

    optimizer: OptimizerName = "adam"
    """Optimizer. adam has amsgrad; sgd has Nesterov momentum 0.9; lamb is for very large batches; muon orthogonalises
    the momentum of matrices and updates the rest by NAdamW."""
    batch_size: int = 256
    """Images in a global batch, on all devices together."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Weight decay: decoupled in adamw and muon, added to the gradient in the others. Norms and biases are not
    decayed."""
    clip_norm: Fixed[float] = 0.0
    """Norm, over all weights, to which a step's gradient is shortened if it is longer. 0 clips nothing; lamb clips at 1
    by itself."""
    class_weight_exponent: Fixed[float] = 0.0
    """Exponent e from 0 to 1: the loss of an image counts in proportion to n**-e, of its class's n training images. An
    alternative to order balanced: each image comes once an epoch. 0 counts all alike."""
    ema_images: float = 0.0
    """Half-life, in images, of the moving average of the weights that is evaluated and kept. 0 keeps the trained
    weights themselves."""

    def __post_init__(self) -> None:
        _require_at_least(self, 1, "batch_size")
        _require_at_least(self, 0.0, "weight_decay", "clip_norm", "ema_images")
        exponent = self.class_weight_exponent
        _require(0 <= exponent <= 1, "class_weight_exponent", exponent, "from 0 to 1")
        _require(0 < self.lr < math.inf, "lr", self.lr, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleOptions:
    """What changes in the course of the run."""

    epochs: int = 20
    """Epochs to train. An epoch is one pass over the training split, or, in order balanced, --draws-per-class images of
    each class on average."""
    max_steps: int = 0
    """Optimizer steps after which the run is evaluated and saved, and ends. 0 sets no limit. It shortens no schedule:
    with --resume and a higher limit, the run goes on as if there had been none."""
    max_minutes: float = 0.0
    """As --max-steps, but minutes, over all starts of the run, evaluations included."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up. constant keeps the peak, cosine falls to 0 along half a cosine."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises linearly from 0 to its peak."""
    start_size: int = IMAGE_SIZE
    """Side, in pixels, that images are reduced to at the start. They grow in steps of 8 pixels to 64."""
    full_size_at: float = 0.5
    """Fraction of the run after which images have their full size, above 0 and at most 1."""

    def __post_init__(self) -> None:
        _require_at_least(self, 1, "epochs")
        _require_at_most(self, MOST_EPOCHS, "epochs")
        _require_at_least(self, 0, "max_steps")
        _require_at_least(self, 0.0, "max_minutes", "warmup_epochs")
        most = f"at most {self.epochs} epochs"
        _require(self.warmup_epochs <= self.epochs, "warmup_epochs", self.warmup_epochs, most)
        sizes = range(SIZE_STEP, IMAGE_SIZE + 1, SIZE_STEP)
        wanted = f"a multiple of {SIZE_STEP} up to {IMAGE_SIZE}"
        _require(self.start_size in sizes, "start_size", self.start_size, wanted)
        _require(0 < self.full_size_at <= 1, "full_size_at", self.full_size_at, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationOptions:
    """How strongly images are distorted."""

    augment: float = 1.0
    """Strength of the augmentation policy, from 0 (off) to 2."""
    augment_start: Fixed[float | None] = None
    """Strength of the augmentation in the first epoch, from 0 to 2, which then changes evenly to --augment. None keeps
    --augment throughout."""
    unaugmented_epochs: Fixed[int] = 0
    """Epochs without augmentation at the end of the run."""
    appearance: float = 0.0
    """Fraction of the images, from 0 to 1 and in every epoch, that look like scans after their preparation: small, off
    centre, blurred, faint, with neighbours, lines or shadows. For a model that reads scans."""

    def __post_init__(self) -> None:
        _require_at_least(self, 0, "unaugmented_epochs")
        _require(0 <= self.appearance <= 1, "appearance", self.appearance, "from 0 to 1")
        _require(0 <= self.augment <= 2, "augment", self.augment, "from 0 to 2")
        _require(0 <= (self.augment_start or 0) <= 2, "augment_start", self.augment_start, "from 0 to 2")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegularisationOptions:
    """What keeps the network from learning images by heart."""

    label_smoothing: float = 0.0
    """Fraction of the target that is spread over all classes, from 0 to below 1."""
    mixup: float = 0.0
    """Parameter a of the distribution Beta(a, a) by which pairs of images are mixed. 0 mixes none."""
    mixup_stages: Fixed[int] = 0
    """Number of stages, from the first, after which mixup may mix the outputs instead of the images (manifold mixup). 0
    always mixes the images."""
    drop_path: Fixed[float | None] = None
    """Fraction of images that skip the last residual block, from 0 to below 1; earlier blocks are skipped less. None
    leaves the network as it is."""
    teachers: tuple[Path, ...] = ()
    """Checkpoints or exported folders to learn from beside the labels (distillation): the target is the mean of their
    probabilities."""
    distillation_weight: Fixed[float] = 0.5
    """Weight of the distillation loss, from 0 to 1."""

    def __post_init__(self) -> None:
        _require_at_least(self, 0, "mixup_stages")
        _require_at_least(self, 0.0, "mixup")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")
        _require(0 <= (self.drop_path or 0) < 1, "drop_path", self.drop_path, "from 0 to below 1")
        _require(0 <= self.distillation_weight <= 1, "distillation_weight", self.distillation_weight, "from 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointOptions:
    """What the run leaves behind, and when."""

    output: Path
    """Folder for everything that the run leaves: log, TensorBoard, checkpoints, report."""
    resume: bool = False
    """Continue from the last good checkpoint in --output, or start a new run if there is none."""
    extend: bool = False
    """Continue as --resume does, with other values of --epochs, --lr, --schedule, --warmup-epochs, --augment,
    --precision or --compile than before. docs/training.md says how the schedule goes on."""
    log_every: int = 10
    """Optimizer steps between log lines."""
    log_with: str = ""
    """Trackers to log to beside TensorBoard, separated by commas: wandb, mlflow, trackio."""
    evaluate_every: int = 1
    """Epochs between evaluations. The last epoch is always evaluated."""
    save_every: int = 0
    """Optimizer steps between checkpoints inside an epoch. 0 saves only at the end of each epoch."""

    def __post_init__(self) -> None:
        _require_at_least(self, 1, "log_every", "evaluate_every")
        _require_at_least(self, 0, "save_every")
        known = set(self.trackers) <= {*TRACKERS}
        _require(known, "log_with", self.log_with, f"one or more of {', '.join(TRACKERS)}, separated by commas")

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names in log_with; TensorBoard is always there."""
        names = (name.strip() for name in self.log_with.split(","))
        return tuple(dict.fromkeys(name for name in names if name not in ("", "tensorboard")))


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeOptions:
    """How the work is done on these devices."""

    micro_batch: int = 0
    """Images that a device processes at once. 0 derives the number from the device's memory."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of convolutions and matrix products. auto is bfloat16 on a GPU that has it and float32 on a CPU, where
    bfloat16 speeds up dense convolutions and slows down depthwise ones."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: int = 0
    """Seed of weights, order, augmentation and dropout."""
    stall_seconds: int = 600
    """Seconds without progress, not even by a micro-batch, after which the run ends with the stacks of all threads. 0
    waits forever."""
    profile_steps: int = 0
    """Steps to trace into the folder profile/ of --output, for TensorBoard or Perfetto. 0 traces none."""

    def __post_init__(self) -> None:
        _require_at_least(self, 0, "micro_batch", "seed", "stall_seconds", "profile_steps")
        _require_at_most(self, MOST_SEED, "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOptions:
    """Files that options come from. They also set the options that have no flag, which --print-config lists."""

    config: tuple[Path, ...] = ()
    """Files with options in their groups, YAML or JSON, or runs, whose config.json is taken. Later ones win, and the
    command line wins over all."""
    print_config: bool = False
    """Print all options as a configuration file, with what they mean, and do nothing else."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train a classifier of characters, in one process: on one GPU if there is one, otherwise on the CPU.

    On several GPUs, with the same options: accelerate launch --multi_gpu -m launch.train OPTIONS, or torchrun
    --nproc_per_node 8 -m launch.train OPTIONS.

    Example: kkanji train --data data/shards --output runs/first --epochs 20
    """

    configuration: FileOptions = field(default_factory=FileOptions)
    dataset: DataOptions
    sampling: OrderOptions = field(default_factory=OrderOptions)
    network: ModelOptions = field(default_factory=ModelOptions)
    optimization: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    regularisation: RegularisationOptions = field(default_factory=RegularisationOptions)
    checkpointing: CheckpointOptions
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        unaugmented = self.augmentation.unaugmented_epochs
        most = f"at most {self.schedule.epochs}, which is --epochs"
        _require(unaugmented <= self.schedule.epochs, "unaugmented_epochs", unaugmented, most)

    def check_effects(self) -> None:
        """Refuse options that would have no effect on this new run, or contradict each other; warn of doubtful ones.

        Raises InputError that names the option and the one that it needs.
        """
        for name, needed, given in WITHOUT_EFFECT:
            found = self.value(name)
            if found != BY_NAME[name].default and not given(self):
                raise InputError(f"{flag(name)} {found}: no effect without {needed}; leave it out, or give that too")
        for message in filter(None, (doubt(self) for doubt in DOUBTS)):
            warnings.warn(message, UserWarning, stacklevel=2)

    def value(self, name: str) -> Any:
        """The value of an option, by its name alone."""
        return getattr(getattr(self, GROUP_OF[name]), name)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values in their groups, for JSON: all that describes the run, and not how it was started."""
        groups = ((group, options) for group, options in asdict(self).items() if group != "configuration")
        return {
            group: {name: _plain(value) for name, value in options.items() if name not in OF_A_START}
            for group, options in groups
        }

    def with_options(self, **options: Any) -> "TrainConfig":
        """The same with other values for some options, by their flags' names."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            changed.setdefault(GROUP_OF[name], {})[name] = value
        return replace(self, **{group: replace(getattr(self, group), **values) for group, values in changed.items()})

    def changed(self, saved: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Of the options that --extend may change, those that differ from a saved config: the values before and now."""
        own, before = read_options(self.to_dict()), read_options(saved)
        return {
            name: [before[name], own[name]] for name in sorted(EXTENDABLE) if before.get(name, own[name]) != own[name]
        }

    def with_saved(self, saved: Mapping[str, Any], names: Iterable[str]) -> "TrainConfig":
        """The same with the values that a saved config has for some options, where it has them."""
        options = read_options(saved)
        return self.with_options(**{name: options[name] for name in names if name in options})

    def resolved_as(self, saved: Mapping[str, Any]) -> "TrainConfig":
        """These options; what they leave open is taken from the config of an earlier start of the run."""
        own, resolved = read_options(self.to_dict()), read_options(saved)
        left_open = [name for name, value in RESOLVED.items() if own[name] == value and name in resolved]
        return self.with_options(**{name: resolved[name] for name in left_open})

    def check_resumes(self, saved: Mapping[str, Any]) -> None:
        """Refuse to continue a run of other options. Raises InputError that names each option that differs.

        saved: the config of the run, written by this version or an earlier one, which had other options.
        """
        own = REMOVED | read_options(self.to_dict())
        defaults = {option.name: _plain(option.default) for option in OPTIONS if option.default is not MISSING}
        before = own | defaults | read_options(saved)
        names = [name for name in own if name not in FREE_TO_CHANGE and own[name] != before[name]]
        if self.checkpointing.extend:
            names = [name for name in names if name not in EXTENDABLE]
        if names:
            found = "; ".join(f"{flag(name)} {own[name]}, was {before[name]}" for name in names)
            extend = ", add --extend to go on otherwise" if set(names) <= EXTENDABLE else ""
            raise InputError(
                f"{self.checkpointing.output}: the run to resume had other options: {found}; "
                f"give the same{extend}, or a new --output"
            )

    @property
    def continues(self) -> bool:
        """Whether this start may go on with an earlier one."""
        return self.checkpointing.resume or self.checkpointing.extend

    @property
    def augments(self) -> bool:
        """Whether any epoch is augmented."""
        return self.augmentation.augment > 0 or (self.augmentation.augment_start or 0) > 0


def train_config(**options: Any) -> TrainConfig:
    """A config from options by their flags' names; data and output are required."""
    groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
    for name, value in options.items():
        groups[GROUP_OF[name]][name] = value
    return TrainConfig(**{name: kind(**groups[name]) for name, kind in GROUPS.items()})


GROUPS: dict[str, Any] = {group.name: group.type for group in fields(TrainConfig)}
OPTIONS = [option for kind in GROUPS.values() for option in fields(kind)]
BY_NAME = {option.name: option for option in OPTIONS}
FLAGLESS = frozenset(option.name for option in OPTIONS if get_origin(option.type) is Annotated)
GROUP_OF = {option.name: group for group, kind in GROUPS.items() for option in fields(kind)}
# An option, what it needs to have an effect, and whether a config has that.
WITHOUT_EFFECT: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("window", "--order windowed", lambda config: config.sampling.order in ("auto", "windowed")),
    ("lanes", "--order windowed", lambda config: config.sampling.order in ("auto", "windowed")),
    ("draws_per_class", "--order balanced", lambda config: config.sampling.order == "balanced"),
    ("draw_exponent", "--order balanced", lambda config: config.sampling.order == "balanced"),
    ("full_size_at", "--start-size", lambda config: config.schedule.start_size < IMAGE_SIZE),
    ("unaugmented_epochs", "--augment", lambda config: config.augments),
    ("mixup_stages", "--mixup", lambda config: config.regularisation.mixup > 0),
    ("distillation_weight", "--teachers", lambda config: bool(config.regularisation.teachers)),
    ("class_weight_exponent", "another --order", lambda config: config.sampling.order != "balanced"),
)
# Options that may differ when a run is resumed: they do not change what it computes. Of the micro-batch only batch
# statistics depend; it follows from the devices, of which there may be others.
FREE_TO_CHANGE = frozenset(
    {*("data", "cache_size", "residence", "trust", "stall_seconds", "profile_steps", "micro_batch")}
    | {"max_steps", "max_minutes"}
    | {option.name for option in fields(CheckpointOptions)}
)
# What one start of a run was asked for, which is no property of the run.
OF_A_START = frozenset({"config", "print_config", "resume", "extend"})
# Options that --extend may change, and those of them by which the schedule goes on in another way.
RESCHEDULED = frozenset({"epochs", "lr", "schedule", "warmup_epochs", "augment", "unaugmented_epochs"})
EXTENDABLE = RESCHEDULED | {"precision", "compile", "clip_norm"}
# Options that a run resolves at its first start, with the values that leave them open; a resumed run keeps the result.
RESOLVED = {"micro_batch": 0, "order": "auto", "window": 0}
# Names of options in runs of earlier versions, and options that are gone, with the only value that can be resumed.
RENAMED = {"teaching": "distillation_weight", "plain_epochs": "unaugmented_epochs"}
REMOVED = {"draw_cap": 0}


def _unaugmented_throughout(config: TrainConfig) -> str:
    unaugmented = config.augmentation.unaugmented_epochs
    whole = unaugmented == config.schedule.epochs and config.augments
    return f"{flag('unaugmented_epochs')} {unaugmented}: no epoch is augmented; --augment 0 says so" if whole else ""


def _teachers_unheard(config: TrainConfig) -> str:
    unheard = config.regularisation.teachers and not config.regularisation.distillation_weight
    return f"{flag('distillation_weight')} 0: --teachers cost time and teach nothing; leave them out" if unheard else ""


def _micro_batch_too_large(config: TrainConfig) -> str:
    own, batch = config.runtime.micro_batch, config.optimization.batch_size
    return f"--micro-batch {own}: no effect, as --batch-size is {batch}; give a smaller one" if own > batch else ""


# What is allowed and probably not meant: a message, or nothing.
DOUBTS: tuple[Callable[[TrainConfig], str], ...] = (
    _unaugmented_throughout,
    _teachers_unheard,
    _micro_batch_too_large,
)


def read_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their flags' names, from a `config` that is saved with a run, a checkpoint or an exported model.

    This version saves options in groups, earlier ones had no groups and other names for some.
    """
    options: dict[str, Any] = {}
    for name, value in saved.items():
        if isinstance(value, Mapping):
            options |= value
        else:
            options[RENAMED.get(name, name)] = value
    return options


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """JSON of plain values as RFC 8259 has it: a number that is not finite is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _require_at_least(options: Any, least: float, *names: str) -> None:
    for name in names:
        found = getattr(options, name)
        _require(least <= found < math.inf, name, found, f"{least:g} or more")


def _require_at_most(options: Any, most: int, name: str) -> None:
    found = getattr(options, name)
    _require(found <= most, name, found, f"at most {most:,}")


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise InputError(f"{flag(name)} {found}: expected {expected}")


def flag(name: str) -> str:
    """What messages call an option: its flag, or group.name for one that only a file sets."""
    return f"{GROUP_OF[name]}.{name}" if name in FLAGLESS else f"--{name.replace('_', '-')}"
