"""Originals and their split -> shard set whose train split has the same number of images of every class."""

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from kkanji import augment_kernels
from kkanji.augment import Policy, draw
from shards import IMAGE_SIZE, InputError, Samples
from shards.manifest import Compression
from tools import originals
from tools.originals import Originals, check_images, read_originals, read_split
from tools.packing import Content, Target, gather, shuffled, split_history, split_key, summary, unchanged, write_set

RULE = (
    "classes with more originals are subsampled; of classes with fewer, every original stands once as it is and all "
    "are augmented equally often, to within one; val and test are stored as they are"
)


def balance(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    per_class: int = 300,
    output: Path = Path("balanced"),
    block_size: int = 1250,
    shard_size: int = 25_000,
    compression: Compression = "none",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a shard set with the same number of training images of every class, augmenting the rare ones.

    Only train is balanced; val and test keep their images unchanged. Every augmented image carries its original's id.

    Example: python -m tools balance originals --per-class 300 --output balanced

    Args:
        folder: originals with a split, made by `python -m tools combine` and `python -m tools split`
        per_class: training images of every class
        output: folder to make
        block_size: images that are one sample for a WebDataset reader: 125, 250, 625 or 1250
        shard_size: images in a tar (25,000 take 103 MB), a multiple of the block size
        compression: none, zstd (a third of the bytes) or lz4 (faster to unpack); readers unpack shards into their cache
        seed: of the choice, the augmentation and the stored order; 0 or more
        workers: threads; one per core if not given. The bytes written do not depend on it
        overwrite: replace OUTPUT if it exists
    """
    started = time.perf_counter()
    target = Target(
        output=output,
        block_size=block_size,
        shard_size=shard_size,
        compression=compression,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
    )
    if per_class < 1:
        raise InputError(f"--per-class {per_class}: expected 1 or more")
    combined = read_originals(folder)
    table = read_split(combined)
    check_images(combined)
    contents = unchanged(combined, table, seed)
    contents["train"] = balanced(combined, table.rows("train"), per_class, seed)
    _compile()
    options = {"per_class": per_class, **target.history(), "rule": RULE, "policy": asdict(Policy())}
    manifest = write_set(target, combined, contents, {"split": split_history(table), "balance": options})
    print(summary(output, manifest, time.perf_counter() - started))


def augment(images: NDArray[np.uint8], seed: int, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images [n, 64, 64] varied; how, follows from each one's number in the set. On the calling thread alone."""
    out = np.empty_like(images)
    augment_kernels.apply(images, draw(Policy(), seed, numbers), out)
    return out


def _compile() -> None:
    """Here and now: in the main thread, where a signal can interrupt it."""
    augment(np.empty((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8), 0, np.empty(0, np.int64))


def balanced(combined: Originals, rows: NDArray[np.int64], per_class: int, seed: int) -> Content:
    """`per_class` images of every class, from these originals."""
    available = combined.counts(rows)
    _require_all(combined, available)
    labels, keys = combined.labels[rows], originals.order_keys(combined.ids[rows], seed)
    ordered = rows[np.lexsort((combined.ids[rows], keys, labels))]
    first, used = np.cumsum(available) - available, np.minimum(available, per_class)
    total, key = per_class * len(available), split_key("train", seed)

    def read(positions: NDArray[np.int64]) -> Samples:
        """Number k of the set is copy k % per_class of class k // per_class; the first copies are the originals."""
        numbers = shuffled(positions, total, key)
        label, copy = np.divmod(numbers, per_class)
        samples = gather(combined, ordered[first[label] + copy % used[label]])
        extra = copy >= used[label]
        samples.images[extra] = augment(samples.images[extra], seed, numbers[extra])
        return samples

    return Content(
        samples=total, read=read, samples_per_class=np.full(len(available), per_class), originals_per_class=used
    )


def _require_all(combined: Originals, available: NDArray[np.int64]) -> None:
    missing = [combined.classes.labels[number] for number in np.flatnonzero(available == 0)]
    if missing:
        raise InputError(f"{combined.folder}: no training image of {' '.join(missing[:10])}; split again")
