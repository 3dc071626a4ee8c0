"""A shard set from NumPy arrays, without archives, folders of images or the tools."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kkanji.classes import ClassMap
from shards import (
    BLOCK_SIZES,
    Lineage,
    Manifest,
    OutputFolder,
    Samples,
    Shard,
    Split,
    shard_name,
    write_manifest,
    write_shard,
)

BLOCKS_A_SHARD = 20  # 25,000 images of the largest block: the size of shard that `kkanji pack` makes
Arrays = tuple[NDArray[np.uint8], NDArray[np.integer]]
"""Images uint8 [n, 64, 64], white ink on black, and class numbers [n]."""


def write_set(
    output: Path,
    splits: Mapping[str, Arrays],
    characters: str,
    *,
    name: str,
    licence: str = "unknown",
    block_size: int = BLOCK_SIZES[-1],
    overwrite: bool = False,
) -> Manifest:
    """Write a shard set of arrays: `splits={"train": (images, labels), "val": ...}`.

    characters: the character of each class number. The images' originals are unknown, so no evaluation on the set is
    proven to be of other images; identical images in several splits are not looked for. Raises InputError if the
    arrays do not fit, or the output is in use.
    """
    classes = ClassMap(code_points=tuple(map(ord, characters)))
    with OutputFolder(output, maker="write_set", inputs=[], overwrite=overwrite) as folder:
        first, made = 0, {}
        for split, (images, labels) in splits.items():
            made[split] = _write_split(folder, split, images, labels, len(classes), block_size, first)
            first += len(labels)
        manifest = Manifest(
            name=name, licence=licence, lineage=Lineage.UNKNOWN, classes=len(classes), seed=0, splits=made
        )
        return write_manifest(folder, manifest, classes.to_json())


def _write_split(
    folder: Path,
    split: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    classes: int,
    block_size: int,
    first: int,
) -> Split:
    """first: number of the first image in the set, which stands for its original."""
    sources = np.arange(first, first + len(labels), dtype=np.uint64)
    step, shards = block_size * BLOCKS_A_SHARD, list[Shard]()
    for start in range(0, len(labels), step):
        starts = range(start, min(start + step, len(labels)), block_size)
        parts = [slice(at, min(at + block_size, start + step)) for at in starts]
        blocks = (Samples(images[part], labels[part].astype(np.int32), sources[part]) for part in parts)
        shards.append(write_shard(folder / shard_name(split, len(shards)), blocks))
    counts = tuple(np.bincount(labels, minlength=classes).tolist())
    return Split(shards=tuple(shards), samples_per_class=counts, originals_per_class=counts)
