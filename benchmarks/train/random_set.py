"""A shard set of random pixels, to train on where only the speed counts."""

from pathlib import Path

import numpy as np

from benchmarks.peers import BLOCK
from kkanji.classes import ClassMap
from shards import (
    IMAGE_SIZE,
    Lineage,
    Manifest,
    OutputFolder,
    Samples,
    Split,
    shard_name,
    write_manifest,
    write_shard,
)

FIRST_CODE_POINT = 0x4E00


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
        write_manifest(made, manifest, ClassMap.of(code_points).to_json())
