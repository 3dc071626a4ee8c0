"""Splits -> shards: cuts a split into tars of blocks and writes them in threads, for `pack` and `balance`.

The image at a position is a function of the position alone, so the bytes do not depend on the number of threads.
Threads suffice, since copying, hashing, writing and augmenting all release the GIL.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from kkanji import __version__
from kkanji.threads import Stopped, map_in_order
from shards import (
    BLOCK_SIZES,
    IMAGE_BYTES,
    InputError,
    Manifest,
    OutputFolder,
    Samples,
    Split,
    shard_name,
    write_manifest,
    write_shard,
)
from shards.format.image_layout import MAX_IMAGES
from shards.format.manifest import Compression, Layout
from shards.order.permutation import mix, permute
from shards.output.ownership import Destination, destination
from tools.ingest.originals import SPLITS, Originals, SplitTable, check_seed, official_tests
from tools.progress import count_images

Blocks = Iterator[Samples]
Progress = Callable[[int], object]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where to write a set, and how to divide it into files: options of `pack`, `balance` and `convert`."""

    output: Path
    """Folder for the shard set."""
    block_size: int
    """Images in a block."""
    shard_size: int
    """Images in a shard, a multiple of the block size."""
    seed: int
    """Seed of the stored order, 0 or more."""
    workers: int | None
    """Number of threads; None for one per core."""
    overwrite: bool
    """Whether to replace an output that the same command made."""
    maker: str
    """Name of the command."""
    inputs: tuple[str | Path, ...]
    """Files and folders that the command reads, which it must not replace."""
    layout: Layout = "packed"
    """Layout of the shards."""
    compression: Compression = "none"
    """Compression of packed blocks."""

    def __post_init__(self) -> None:
        if self.layout == "image" and self.compression != "none":
            raise InputError(f"--compression {self.compression}: for --layout packed; PNG and JPEG are compressed")
        if self.layout == "image" and self.shard_size > MAX_IMAGES:
            raise InputError(f"--shard-size {self.shard_size}: expected {MAX_IMAGES} at most for --layout image")
        if self.block_size not in BLOCK_SIZES:
            raise InputError(f"--block-size {self.block_size}: expected one of {', '.join(map(str, BLOCK_SIZES))}")
        if self.shard_size < 1 or self.shard_size % self.block_size:
            raise InputError(f"--shard-size {self.shard_size}: expected a multiple of --block-size {self.block_size}")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: expected 1 or more, or none for one per core")
        check_seed(self.seed)

    @property
    def destination(self) -> Destination:
        """The output folder, with the rules for replacing it."""
        return destination(self.output, self.maker, self.inputs, self.overwrite)

    @property
    def threads(self) -> int:
        """Number of threads to use."""
        return self.workers or len(os.sched_getaffinity(0))

    def history(self) -> dict[str, int]:
        """The options that change the bytes written, for the manifest."""
        return {"block_size": self.block_size, "shard_size": self.shard_size, "seed": self.seed}


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """The samples of a split, by stored position."""

    samples: int
    """Number of samples."""
    read: Callable[[NDArray[np.int64]], Samples]
    """Function that returns the samples at these positions."""
    samples_per_class: NDArray[np.int64]
    """Samples of each class, [classes]."""
    originals_per_class: NDArray[np.int64]
    """Distinct originals of each class, [classes]."""
    rendered_per_class: NDArray[np.int64]
    """Originals of each class that are rendered from fonts, [classes]."""


class ShardJob(NamedTuple):
    """A shard to write."""

    split: str
    name: str
    content: Content
    start: int
    """Position of the first sample in its split."""
    stop: int
    """Position after the last sample."""
    target: Target

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.stop - self.start

    def blocks(self) -> Blocks:
        """The samples, in blocks."""
        size = self.target.block_size
        for first in range(self.start, self.stop, size):
            yield self.content.read(np.arange(first, min(first + size, self.stop), dtype=np.int64))


def stored_as_is(combined: Originals, rows: NDArray[np.int64], key: int) -> Content:
    """These originals, unchanged and shuffled, so that a sequential reader meets mixed classes."""

    def read(positions: NDArray[np.int64]) -> Samples:
        return gather(combined, rows[shuffled(positions, len(rows), key)])

    counts = combined.counts(rows)
    return Content(
        samples=len(rows),
        read=read,
        samples_per_class=counts,
        originals_per_class=counts,
        rendered_per_class=combined.rendered(rows),
    )


def unchanged(combined: Originals, table: SplitTable, seed: int) -> dict[str, Content]:
    """The originals of every split, unchanged. Splits without images are omitted.

    Where the test split has the official test sets of several publishers, each is a further split, such as
    `test-kmnist`: its score is what others publish.
    """
    rows = {name: table.rows(name) for name in SPLITS}
    official = {name: np.intersect1d(found, rows["test"]) for name, found in official_tests(combined).items()}
    if len(official) > 1:
        rows |= {f"test-{name}": found for name, found in official.items()}
    return {name: stored_as_is(combined, found, split_key(name, seed)) for name, found in rows.items() if len(found)}


def gather(combined: Originals, rows: NDArray[np.int64]) -> Samples:
    """Copies of these originals."""
    return Samples(np.take(combined.images, rows, axis=0), combined.labels[rows], combined.ids[rows])


def split_key(split: str, seed: int) -> int:
    """Key of a split's stored order."""
    return mix(mix(seed) ^ SPLITS.index(split.partition("-")[0]))


def shuffled(positions: NDArray[np.int64], samples: int, key: int) -> NDArray[np.int64]:
    """The numbers at these positions of a shuffle of 0..samples-1 that `key` selects."""
    return permute(positions.astype(np.uint64), samples, key=key).astype(np.int64)


def write_set(
    target: Target, combined: Originals, contents: Mapping[str, Content], history: Mapping[str, Any]
) -> Manifest:
    """Write a whole shard set, which appears in its place once it is complete."""
    with OutputFolder(target.output, maker=target.maker, inputs=target.inputs, overwrite=target.overwrite) as folder:
        jobs = shard_jobs(contents, target)
        require_room(folder, jobs, target)
        with count_images(sum(job.samples for job in jobs)) as progress:
            shards = write_shards(
                jobs,
                target.threads,
                lambda job, blocks: write_shard(folder / job.name, blocks, compression=target.compression),
                progress.update,
            )
        draft = draft_manifest(target, combined, contents, history)
        splits = {
            name: replace(
                split, shards=tuple(shard for job, shard in zip(jobs, shards, strict=True) if job.split == name)
            )
            for name, split in draft.splits.items()
        }
        return write_manifest(folder, replace(draft, splits=splits), combined.classes.to_json())


def require_room(folder: Path, jobs: Sequence[ShardJob], target: Target) -> None:
    """Raise InputError if the disk is too small, before hours of work. Compressed sizes are not known beforehand."""
    images = sum(job.samples for job in jobs)
    free = shutil.disk_usage(folder).free
    needed = images * IMAGE_BYTES
    if target.compression == "none" and needed > free:
        raise InputError(
            f"{target.output}: {images:,} images take {needed / 1e9:,.3f} GB, {free / 1e9:,.3f} GB are free; choose "
            "another --output, fewer images or --compression"
        )


def draft_manifest(
    target: Target, combined: Originals, contents: Mapping[str, Content], history: Mapping[str, Any]
) -> Manifest:
    """The manifest of a set before its shards are written."""
    return Manifest(
        name=combined.facts["name"],
        licence=combined.facts["licence"],
        lineage=combined.lineage,
        classes=len(combined.classes),
        seed=target.seed,
        compression=target.compression,
        history={"kkanji": __version__, "originals": _lineage(combined), **history},
        splits={name: _split(content) for name, content in contents.items()},
    )


def shard_jobs(contents: Mapping[str, Content], target: Target) -> list[ShardJob]:
    """All shards of a set."""
    return [
        ShardJob(
            name, shard_name(name, number), content, start, min(start + target.shard_size, content.samples), target
        )
        for name, content in contents.items()
        for number, start in enumerate(range(0, content.samples, target.shard_size))
    ]


def write_shards(
    jobs: Sequence[ShardJob], threads: int, write: Callable[[ShardJob, Blocks], Result], progress: Progress
) -> list[Result]:
    """Call `write` for each shard in threads and return its results. progress: called with each number of images."""
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        return list(map_in_order(pool, partial(_write, write, stop, progress), jobs, stop=stop))


def split_history(table: SplitTable) -> dict[str, Any]:
    """How the split was made, for the manifest."""
    names = ("protocol", "seed", "val", "test", "folds", "fold", "rule", "images", "classes")
    return {name: table.facts[name] for name in names if name in table.facts}


def summary(output: Path, manifest: Manifest, seconds: float) -> str:
    """One line about a finished set, for the screen."""
    splits = manifest.splits.values()
    images = sum(split.samples for split in splits)
    size = sum(int(split.table.bytes.sum()) for split in splits)
    parts = ", ".join(
        f"{name} {split.samples:,} in {len(split.shards)} shards" for name, split in manifest.splits.items()
    )
    return f"{output}: {parts}; {size / 1e6:,.0f} MB, {seconds:.1f} s, {images / seconds:,.0f} images/s"


def _write(
    write: Callable[[ShardJob, Blocks], Result], stop: threading.Event, progress: Progress, job: ShardJob
) -> Result:
    counted = 0

    def count(images: int) -> None:
        nonlocal counted
        counted += images
        progress(images)

    result = write(job, _until(stop, job.blocks(), count))
    progress(job.samples - counted)  # the rest of a shard that was finished before
    return result


def _until(stop: threading.Event, blocks: Blocks, progress: Progress) -> Blocks:
    """The blocks, counted as they are written. Raises Stopped once the run fails."""
    for block in blocks:
        if stop.is_set():
            raise Stopped
        yield block
        progress(len(block.labels))


def _split(content: Content) -> Split:
    return Split(
        shards=(),
        samples_per_class=tuple(content.samples_per_class.tolist()),
        originals_per_class=tuple(content.originals_per_class.tolist()),
        rendered_per_class=tuple(content.rendered_per_class.tolist()) if content.rendered_per_class.any() else (),
    )


def _lineage(combined: Originals) -> dict[str, Any]:
    """Facts of the originals for the manifest. Version 1 has neither `official` nor `lineage`."""
    names = ("counts", "official", "lineage", "classes_without_images", "images_sha256", "originals_sha256", "sources")
    return {name: combined.facts[name] for name in names if name in combined.facts}
