"""The options of a training run: one value, checked, saved with the run; the command line is made from it."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from shards import InputError
from shards.format.layout import IMAGE_SIZE

Head = Literal["linear", "cosine"]
OptimizerName = Literal["adam", "adamw", "sgd", "lamb", "muon"]
# Options that may differ when a run is resumed: they do not change what it computes.
FREE_TO_CHANGE = frozenset({"data", "output", "resume", "trust", "cache_size"}) | {
    "log_every",
    "save_every",
    "evaluate_every",
    "stall_seconds",
    "profile_steps",
}
MOST_JSON_BYTES = 64 << 20
SIZE_STEP = 8  # pixels; below it the networks' maps do not shrink evenly
# Options that a run settles when it starts, and their value until then: a resumed run takes what was settled.
RESOLVED = {"micro_batch": 0, "order": "auto", "window": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train a classifier of characters, in one process: on one GPU if there is one, otherwise on the CPU.

    On several GPUs, with the same options: accelerate launch --multi_gpu -m launch.train OPTIONS, or torchrun
    --nproc_per_node 8 -m launch.train OPTIONS.

    Example: kkanji train --data shards --output runs/first --epochs 20
    """

    data: str
    """Shard set: a folder made by `python -m tools pack` or `balance`, or a URL (s3://, gs://, az://, https://)."""
    output: Path
    """Folder for everything the run leaves: log, TensorBoard, checkpoints, report."""
    model: str = "kkanji_efficientnet_b0"
    """A network of kkanji.models, by its timm name."""
    init: Path | None = None
    """Begin with the weights of this checkpoint or exported folder, of the same network; characters are matched."""
    teachers: tuple[Path, ...] = ()
    """Checkpoints or exported folders whose mean probabilities are learned beside the labels (distillation)."""
    distillation_weight: float = 0.5
    """Their share of the loss."""
    head: Head = "linear"
    """Its classifier. cosine: by the angle to each class's direction, so that rare classes keep up."""
    epochs: int = 20
    """Passes over the training split."""
    order: Literal["auto", "full", "windowed", "balanced"] = "auto"
    """full: shuffled over the whole set. windowed: over some shards at a time, for sets larger than the disk. balanced:
    equal draws of every class. auto: full if the set is local or fits into the cache, else windowed."""
    window: int = 0
    """Shards that order windowed mixes at a time; 0: 8, or what the cache has room for."""
    lanes: int = 1
    """Parts that order windowed divides the shards into; with a multiple of the nodes, each reads only its own."""
    draws_per_class: int = 10_000
    """Images of a class in an epoch of order balanced, on average."""
    draw_exponent: float = 0.0
    """Order balanced draws classes in proportion to images ** this: 0 all alike, 1 as they are."""
    draw_cap: int = 0
    """Images that a class counts for at most in that proportion; 0: as many as it has."""
    trust: bool = False
    """Do not check the shards of a local set in the background: for sets that were just verified."""
    cache_size: float = 0.0
    """Gigabytes of disk for shards that are streamed or unpacked, in $KKANJI_CACHE or ~/.cache/kkanji; 0: 80 % of
    what is free."""
    batch_size: int = 256
    """Images in a global batch, whatever the number of devices: each takes its share in micro-batches."""
    micro_batch: int = 0
    """Images that a device takes at once; 0 derives it from the device's memory."""
    optimizer: OptimizerName = "adam"
    """adam: with amsgrad, the legacy project's. sgd: Nesterov momentum 0.9. lamb: for very large batches. muon:
    orthogonalised momentum, with AdamW for classifier, norms and biases."""
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or falling to 0 along a half cosine."""
    warmup_epochs: float = 0.0
    """Epochs of linear rise from 0 to the peak learning rate."""
    weight_decay: float = 0.0
    """Of weights; norms and biases are spared."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    mixup: float = 0.0
    """Pairs of images are mixed by shares drawn from Beta(this, this); 0: not at all."""
    mixup_stages: int = 0
    """What is mixed: the images, or the output of one of so many first stages of the network (manifold mixup)."""
    drop_path: float | None = None
    """Share of images that skip the last residual block, earlier ones less; None: as the network has it."""
    ema_images: float = 0.0
    """Half-life, in images, of the averaged weights that are evaluated and kept; 0: the weights as they are."""
    augment: float = 1.0
    """Strength of the augmentation policy; 0 turns it off."""
    augment_start: float | None = None
    """Its strength in the first epoch, which then grows evenly; None: the same throughout."""
    unaugmented_epochs: int = 0
    """Last epochs without augmentation."""
    start_size: int = IMAGE_SIZE
    """Images are reduced to so many pixels a side at the start, and grow in steps of 8 to their own size."""
    full_size_at: float = 0.5
    """Share of the run after which images have their own size."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and matrix products. auto: bfloat16 on a GPU that has it, float32 on a CPU (where bfloat16 is
    faster for dense convolutions, slower for depthwise ones: docs/LOG.md)."""
    compile: bool = False
    """Compile the network by torch.compile before it is wrapped for several ranks."""
    stall_seconds: int = 1800
    """A step that takes longer ends the process, with the stacks of all its threads; 0: wait for ever."""
    profile_steps: int = 0
    """Steps whose trace is written to the run's folder profile/, for TensorBoard or Perfetto."""
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    log_every: int = 10
    """Optimizer steps between log lines."""
    evaluate_every: int = 1
    """Epochs between evaluations; there is one at the end in any case."""
    save_every: int = 0
    """Optimizer steps between checkpoints inside an epoch; 0: only at the end of each."""
    resume: bool = False
    """Go on from the run's last good checkpoint, or start if it has none."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "evaluate_every", "lanes", "draws_per_class"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in (
            "micro_batch",
            "save_every",
            "seed",
            "window",
            "unaugmented_epochs",
            "profile_steps",
            "stall_seconds",
            "mixup_stages",
            "draw_cap",
        ):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("warmup_epochs", "weight_decay", "cache_size", "mixup", "ema_images"):
            _require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "0 or more")
        _require(0 < self.lr < float("inf"), "lr", self.lr, "above 0")
        _require(0 <= (self.drop_path or 0) < 1, "drop_path", self.drop_path, "from 0 to below 1")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "from 0 to below 1")
        _require(0 <= self.distillation_weight <= 1, "distillation_weight", self.distillation_weight, "from 0 to 1")
        _require(0 <= self.draw_exponent <= 1, "draw_exponent", self.draw_exponent, "from 0 to 1")
        _require(0 <= self.augment <= 2, "augment", self.augment, "from 0 to 2")
        _require(0 <= (self.augment_start or 0) <= 2, "augment_start", self.augment_start, "from 0 to 2")
        _require(0 < self.full_size_at <= 1, "full_size_at", self.full_size_at, "above 0, at most 1")
        sizes = range(SIZE_STEP, IMAGE_SIZE + 1, SIZE_STEP)
        _require(
            self.start_size in sizes, "start_size", self.start_size, f"a multiple of {SIZE_STEP} up to {IMAGE_SIZE}"
        )
        _require(
            self.warmup_epochs <= self.epochs, "warmup_epochs", self.warmup_epochs, f"at most {self.epochs} epochs"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def resolved_as(self, saved: Mapping[str, Any]) -> "TrainConfig":
        """These options, with those that were left open settled as an earlier start of the run did."""
        left_open = [name for name, value in RESOLVED.items() if getattr(self, name) == value and name in saved]
        return replace(self, **{name: saved[name] for name in left_open})

    def check_resumes(self, saved: dict[str, Any]) -> None:
        """Refuse to go on with a run of other options. Raises InputError naming each that differs."""
        own = self.to_dict()
        saved = replace(self, **DEFAULTS).to_dict() | saved  # an earlier version had fewer options
        names = [name for name in own if name not in FREE_TO_CHANGE and own[name] != saved[name]]
        if names:
            found = "; ".join(f"--{name.replace('_', '-')} {own[name]}, was {saved[name]}" for name in names)
            raise InputError(
                f"{self.output}: the run to resume had other options: {found}; give the same, or a new --output"
            )


DEFAULTS = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError when it is not there, not one or larger than MOST_JSON_BYTES."""
    try:
        size = path.stat().st_size
        if size > MOST_JSON_BYTES:
            raise InputError(f"{path}: {size:,} bytes, expected at most {MOST_JSON_BYTES:,}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: found {type(value).__name__}, expected a JSON object")
    return value


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


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise InputError(f"--{name.replace('_', '-')} {found}: expected {expected}")
