"""kkanji's own feed from disk, stage by stage."""

from collections.abc import Iterator
from functools import partial
from itertools import count, cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers import BLOCK, IMAGE_SIZE, Batch, Epoch, Job
from kkanji.augment.policy import Policy
from kkanji.data.dali import Loader
from kkanji.data.feed import Feed
from kkanji.data.training_set import PREFETCH
from kkanji.pixels import normalise
from shards import (
    Lineage,
    Manifest,
    OutputFolder,
    SampleOrder,
    Samples,
    Shard,
    ShardSet,
    Split,
    SplitReader,
    shard_name,
    write_manifest,
    write_shard,
)
from shards.format.layout import IMAGE_BYTES
from shards.order.sequential import numbers_of

PACKAGES = ("torch", "nvidia-dali-cuda120")
AHEAD = PREFETCH + 1  # batches in DALI's queue, and the one in progress
Images = NDArray[np.uint8]


def write(job: Job) -> None:
    """Write packed shards in blocks of 250. The original of an image is its number, and so is its label if none share
    a class.
    """
    images = job.images()
    in_shard = max(1, job.shard_bytes // IMAGE_BYTES // BLOCK) * BLOCK
    with OutputFolder(Path(job.folder)) as folder:
        parts = [range(first, min(first + in_shard, len(images))) for first in range(0, len(images), in_shard)]
        labels = np.arange(len(images)) % (job.classes or len(images))
        names = [folder / shard_name("train", number) for number in range(len(parts))]
        shards = [_shard(path, images, labels, part) for path, part in zip(names, parts, strict=True)]
        counts = tuple(np.bincount(labels).tolist())
        splits = {"train": Split(shards=tuple(shards), samples_per_class=counts, originals_per_class=counts)}
        made = Manifest(name="", licence="", lineage=Lineage.UNKNOWN, classes=len(counts), seed=0, splits=splits)
        write_manifest(folder, made, "{}")


def known(job: Job) -> Epoch:
    """The gather alone: from the mapped shards into one buffer, with sample numbers chosen beforehand as in `limit`."""
    reader, order = open_packed(job)
    buffer = np.zeros((job.batch, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    batches = [order.at(first, first + job.batch) for first in range(0, reader.samples - job.batch + 1, job.batch)]

    def epoch() -> Iterator[Batch]:
        for numbers in cycle(batches):
            images, labels, _ = reader.gather(numbers, buffer, sources=False)
            yield Batch(images, labels)

    return epoch


def gather(job: Job) -> Epoch:
    """Order and gather: sample numbers are computed as they are needed."""
    reader, order = open_packed(job)
    buffer = np.zeros((job.batch, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

    def epoch() -> Iterator[Batch]:
        spans = ((start, start + job.batch) for start in count(0, job.batch))
        for numbers in numbers_of(order, spans):
            images, labels, _ = reader.gather(numbers, buffer, sources=False)
            yield Batch(images, labels)

    return epoch


def loaded(job: Job) -> Epoch:
    """The loader that training uses, without augmentation: gather through DALI, uint8 in torch."""
    return partial(_loaded, job, open_packed(job), policy=None)


def normalised(job: Job) -> Epoch:
    """The loader, then normalisation to float32, the input of the network, on the CPU."""
    reader_and_order = open_packed(job)

    def epoch() -> Iterator[Batch]:
        for batch in _loaded(job, reader_and_order, policy=None):
            yield Batch(normalise(batch.images), batch.labels)

    return epoch


def augmented(job: Job) -> Epoch:
    """The loader with the whole augmentation policy. Augmented images cannot be checked, so none are returned."""
    reader_and_order = open_packed(job)

    def epoch() -> Iterator[Batch]:
        for batch in _loaded(job, reader_and_order, policy=Policy()):
            yield Batch(None, batch.labels)

    return epoch


def _loaded(job: Job, reader_and_order: tuple[SplitReader, SampleOrder], policy: Policy | None) -> Iterator[Batch]:
    reader, order = reader_and_order
    feed = Feed(reader=reader, order=order, classes=reader.samples, policy=policy)
    spans = ((start, start + job.batch) for start in count(0, job.batch))
    with Loader(feed, spans, torch.device("cpu"), largest=job.batch, threads=job.threads) as loader:
        for batch in loader:
            yield Batch(batch.images, batch.labels)


def open_packed(job: Job) -> tuple[SplitReader, SampleOrder]:
    """A reader of the set, and a shuffled order."""
    reader = ShardSet(Path(job.folder)).split("train", threads=job.threads)
    return reader, SampleOrder(samples=reader.samples, seed=0)


def _shard(path: Path, images: Images, labels: NDArray[np.int64], part: range) -> Shard:
    blocks = (part[first : first + BLOCK] for first in range(0, len(part), BLOCK))
    return write_shard(path, (_samples(images, labels, block) for block in blocks))


def _samples(images: Images, labels: NDArray[np.int64], part: range) -> Samples:
    chosen = slice(part.start, part.stop)
    return Samples(images[chosen], labels[chosen], np.array(part, np.uint64))
