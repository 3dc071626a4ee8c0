"""Host feed: images/s of shuffled single images, from a shard set in the page cache to a torch tensor.

`python -m benchmarks loader`. The limit is NumPy's own gather: `np.take` of the same number of random rows of one array
in memory into a buffer that exists already, on the same number of threads.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Candidate, environment, measure, print_table, write_result
from kkanji.augment import Policy
from kkanji.pipeline import PREFETCH, Feed, Loader
from shards import (
    Manifest,
    OutputFolder,
    SampleOrder,
    Samples,
    ShardSet,
    Split,
    SplitReader,
    shard_name,
    write_manifest,
    write_shard,
)
from shards.layout import IMAGE_BYTES, IMAGE_SIZE

LIMIT = "limit: np.take into a touched buffer"
BATCHES = 40
AUGMENTED_BATCHES = 8
SHARDS, BLOCK = 4, 1250


def loader(
    *,
    images: int = 100_000,
    batch: int = 2_000,
    threads: int = 2,
    repeats: int = 7,
    output: Path = Path("benchmarks/results/loader.json"),
) -> None:
    """Measure gathering shuffled single images, alone and through the DALI pipeline.

    Example: python -m benchmarks loader

    Args:
        images: images in the set, of random pixels; 100,000 take 410 MB
        batch: images in a batch
        threads: of the gather and of DALI
        repeats: measurements of each candidate, in turn
        output: JSON to write
    """
    with tempfile.TemporaryDirectory(prefix="kkanji-benchmark-") as folder:
        reader = _made_up_set(Path(folder) / "shards", images).split("train", threads=threads)
        rows = measure(_candidates(reader, batch, threads), repeats)
    options = {"images": images, "batch": batch, "threads": threads}
    write_result(output, {"benchmark": "loader", "options": options, "environment": environment(), "rows": rows})
    print_table(rows, LIMIT)


def _candidates(reader: SplitReader, batch: int, threads: int) -> list[Candidate]:
    order = SampleOrder(samples=reader.samples, seed=0)
    plain = Feed(reader=reader, order=order, classes=10)
    augmented = Feed(reader=reader, order=order, classes=10, policy=Policy())
    whole = BATCHES * batch
    return [
        Candidate(name=LIMIT, run=_limit(reader, order, batch, threads), images=whole),
        Candidate(name="order alone", run=lambda: _order(order, batch), images=whole),
        Candidate(name="gather of single images, order included", run=_gather(reader, order, batch), images=whole),
        _loaded("gather, DALI, normalised float32 in torch", plain, batch, BATCHES),
        _loaded("the same with the whole policy", augmented, batch, AUGMENTED_BATCHES),
    ]


def _limit(reader: SplitReader, order: SampleOrder, batch: int, threads: int) -> Callable[[], object]:
    memory = np.empty((reader.samples, IMAGE_BYTES), np.uint8)
    memory[:] = 1
    buffer = np.zeros((batch, IMAGE_BYTES), np.uint8)
    numbers = [order.at(number * batch, (number + 1) * batch) for number in range(BATCHES)]
    pool = ThreadPoolExecutor(threads)

    def take(part: tuple[NDArray[np.int64], NDArray[np.uint8]]) -> None:
        np.take(memory, part[0], axis=0, out=part[1], mode="clip")

    def run() -> None:
        for chosen in numbers:
            list(pool.map(take, zip(np.array_split(chosen, threads), np.array_split(buffer, threads), strict=True)))

    return run


def _order(order: SampleOrder, batch: int) -> None:
    for number in range(BATCHES):
        order.at(number * batch, (number + 1) * batch)


def _gather(reader: SplitReader, order: SampleOrder, batch: int) -> Callable[[], object]:
    buffer = np.zeros((batch, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

    def run() -> None:
        for number in range(BATCHES):
            reader.gather(order.at(number * batch, (number + 1) * batch), buffer)

    return run


def _loaded(name: str, feed: Feed, batch: int, batches: int) -> Candidate:
    """An endless loader, of which each run takes so many batches in steady state: starting it is not measured."""
    stretches = ((start, start + batch) for start in range(0, 1 << 60, batch))
    endless = iter(Loader(feed, stretches, torch.device("cpu"), largest=batch))

    def take(count: int) -> None:
        for _ in range(count):
            next(endless)

    ahead = 2 * PREFETCH + 2  # in our queue, in DALI's, and one under way in each
    return Candidate(name=name, run=lambda: take(batches), images=batches * batch, prepare=lambda: take(ahead))


def _made_up_set(folder: Path, images: int) -> ShardSet:
    rng = np.random.default_rng(0)
    counts = np.diff(np.linspace(0, images, SHARDS + 1).astype(int))
    with OutputFolder(folder) as partial:
        shards = []
        for number, count in enumerate(counts):
            blocks = (_block(rng, min(BLOCK, count - start)) for start in range(0, count, BLOCK))
            shards.append(write_shard(partial / shard_name("train", number), blocks))
        split = Split(shards=tuple(shards), samples_per_class=(images,), originals_per_class=(1,))
        manifest = Manifest(
            name="random pixels", licence="", lineage="unknown", classes=1, seed=0, splits={"train": split}
        )
        write_manifest(partial, manifest, "{}")
    return ShardSet(folder)


def _block(rng: np.random.Generator, count: int) -> Samples:
    pixels = rng.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    return Samples(pixels, np.zeros(count, np.int32), np.zeros(count, np.uint64))
