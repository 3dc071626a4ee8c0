"""Training speed on this machine: the model alone, from cached batches, and as it is; and which stage limits it.

`python -m benchmarks train`, or on several devices `accelerate launch -m benchmarks.train.train --batch-size 50000`.
The step is the training loop's own. What differs is where its batches are from: on the device already (what the model
can do), in host memory already (what is lost on the way to the device), from the loader (the training as it is). They
take turns, as does the loader by itself, without a model.
"""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import broadcast

from benchmarks.measure import environment, write_result
from benchmarks.peers import BLOCK
from benchmarks.rows import Row, plain, print_rows
from benchmarks.train.trial import WITHOUT_END, Trial
from kkanji import classes as characters
from kkanji import cli
from kkanji.config import OptimizerName, TrainConfig, train_config
from kkanji.data.training_set import class_map, open_set
from kkanji.environment import loader_threads, precision_name, warn_of_emulation, warn_of_idle_cores
from kkanji.launchers import end_with_launcher
from kkanji.training.build import build_run, create_loader
from kkanji.training.profiling import without_garbage_collection
from shards import (
    IMAGE_SIZE,
    InputError,
    Lineage,
    Manifest,
    OutputFolder,
    Samples,
    Split,
    shard_name,
    write_manifest,
    write_shard,
)

FIRST_CODE_POINT, MOST_CLASSES = 0x4E00, 20_000


def train(
    *,
    data: str = "",
    model: str = "kkanji_efficientnet_b0",
    batch_size: int = 50_000,
    micro_batch: int = 0,
    optimizer: OptimizerName = "adam",
    augment: float = 1.0,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    compile: bool = False,
    order: Literal["auto", "full", "windowed", "balanced"] = "auto",
    cache_size: float = 0.0,
    images: int = 100_000,
    classes: int = 3_832,
    repeats: int = 3,
    seconds: float = 10,
    output: Path = Path("benchmarks/results/train.json"),
) -> None:
    """Measure training on the devices of this machine, and find the stage that limits it.

    Example: accelerate launch -m benchmarks.train.train --batch-size 50000

    Args:
        data: shard set, a folder or a URL; random pixels if not given
        model: a network of kkanji.models
        batch_size: images in a global batch, whatever the number of devices
        micro_batch: images that a device takes at once; 0 derives it from the device's memory
        optimizer: as in training
        augment: strength of the augmentation policy; 0 turns it off
        precision: of convolutions and matrix products, as in training
        compile: compile the network
        order: as in training
        cache_size: gigabytes of disk for shards that are streamed or unpacked
        images: random ones; 100,000 take 410 MB
        classes: of the random images
        repeats: measurements of each kind, in turn
        seconds: about the length of a measurement; a step that takes longer is measured whole
        output: JSON to write
    """
    _check_options(images, classes, repeats, seconds)
    accelerator = Accelerator(mixed_precision=precision_name(precision))
    warn_of_idle_cores(accelerator)
    warn_of_emulation(accelerator)
    state = environment()
    with _set(accelerator, data, images, classes) as location:
        config = train_config(
            data=location,
            output=output,
            model=model,
            epochs=WITHOUT_END,
            batch_size=batch_size,
            micro_batch=micro_batch,
            optimizer=optimizer,
            augment=augment,
            precision=precision,
            compile=compile,
            order=order,
            cache_size=cache_size,
        )
        resolved, result = _measure(accelerator, config, repeats, seconds)
    if accelerator.is_main_process:
        source = {"data": "given" if data else "random pixels"}
        options = source | _options(resolved) | {"repeats": repeats, "seconds": seconds}
        write_result(output, {"benchmark": "train", "options": options, "environment": state} | result)
        _print(result)


def _check_options(images: int, classes: int, repeats: int, seconds: float) -> None:
    if images < 1 or images % BLOCK:
        raise InputError(f"--images {images}: expected a multiple of {BLOCK}: whole blocks")
    if repeats < 1 or seconds <= 0 or not 1 <= classes <= MOST_CLASSES:
        found = f"--repeats {repeats}, --seconds {seconds}, --classes {classes}"
        raise InputError(f"{found}: expected more than 0, and at most {MOST_CLASSES:,} classes")


def _measure(accelerator: Accelerator, config: TrainConfig, repeats: int, seconds: float) -> tuple[TrainConfig, Row]:
    """The configuration with all defaults resolved, and the result. Every rank calls it."""
    opened = open_set(config.dataset.data, cache_size=config.dataset.cache_size)
    run = build_run(accelerator, config, opened, class_map(opened))
    with create_loader(run, 0) as loader, without_garbage_collection():
        return run.config, Trial(run, loader).measure(repeats, seconds)


def _options(config: TrainConfig) -> Row:
    """The options that the result depends on."""
    return {
        "model": config.network.model,
        "optimizer": config.optimization.optimizer,
        "augment": config.augmentation.augment,
        "batch_size": config.optimization.batch_size,
        "micro_batch": config.runtime.micro_batch,
        "compile": config.runtime.compile,
        "order": config.sampling.order,
        "threads": loader_threads(),
    }


def _print(result: Row) -> None:
    print_rows(result["rows"])
    sys.stdout.write("\n".join([*plain(result["steps"]), *plain(result["devices"]), result["verdict"]]) + "\n")


def random_set(folder: Path, images: int, classes: int) -> None:
    """A packed set of random pixels, which no compression makes smaller, to train on."""
    rng = np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int32) % classes
    counts = tuple(np.bincount(labels, minlength=classes).tolist())
    blocks = (
        Samples(
            rng.integers(0, 256, (BLOCK, IMAGE_SIZE, IMAGE_SIZE), np.uint8),
            labels[first : first + BLOCK],
            np.arange(first, first + BLOCK, dtype=np.uint64),
        )
        for first in range(0, images, BLOCK)
    )
    with OutputFolder(folder) as made:
        shard = write_shard(made / shard_name("train", 0), blocks)
        split = Split(shards=(shard,), samples_per_class=counts, originals_per_class=counts)
        manifest = Manifest(
            name="random pixels", licence="", lineage=Lineage.UNKNOWN, classes=classes, seed=0, splits={"train": split}
        )
        code_points = range(FIRST_CODE_POINT, FIRST_CODE_POINT + classes)
        write_manifest(made, manifest, characters.ClassMap.of(code_points).to_json())


@contextmanager
def _set(accelerator: Accelerator, data: str, images: int, classes: int) -> Iterator[str]:
    """The location of the given set, or of a set of random pixels that each node makes and removes."""
    if data:
        yield data
        return
    number = torch.tensor([secrets.randbits(40)], device=accelerator.device)  # the main process's, for all
    name = f"kkanji-benchmark-train-{int(broadcast(number)):x}"
    folder = Path(tempfile.gettempdir()) / name
    try:
        if accelerator.is_local_main_process:
            random_set(folder, images, classes)
        accelerator.wait_for_everyone()
        yield str(folder)
        accelerator.wait_for_everyone()
    finally:
        if accelerator.is_local_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Entry point of `accelerate launch -m benchmarks.train.train`."""
    end_with_launcher()
    tyro.cli(train)


if __name__ == "__main__":
    cli.run(main)
