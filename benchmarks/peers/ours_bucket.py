"""kkanji's own streaming from an object store."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.peers import IMAGE_SIZE, WINDOW, Batch, Job
from benchmarks.peers.ours import write
from shards import ShardSet
from shards.cache.cache import Cache
from shards.order.sequential import numbers_of
from shards.order.windowed import WindowedOrder
from shards.read.prefetch import shards_ahead
from shards.store.store import open_store

__all__ = ["PACKAGES", "bucket", "downloaded", "write"]
PACKAGES = ("obstore",)
CACHE_BYTES = 1 << 40


def downloaded(job: Job) -> Iterator[Batch]:
    """The bytes alone, by the download that the cache uses, with as many shards at a time."""
    store = open_store(job.url)

    def download(path: Path) -> None:
        store.download(path.name, path.stat().st_size, Path(job.cache) / path.name)

    files = job.files(".tar")
    with ThreadPoolExecutor(shards_ahead([path.stat().st_size for path in files])) as pool:
        list(pool.map(download, files))
    yield Batch(None, range(len(job.images())))


def bucket(job: Job) -> Iterator[Batch]:
    """As in training: shards of a window are prefetched, verified, mapped from the cache, and gathered from."""
    cache = Cache(Path(job.cache), CACHE_BYTES)
    found = ShardSet(job.url, cache=cache)
    reader = found.split("train", threads=job.threads)
    sizes = [shard.samples for shard in found.manifest.splits["train"].shards]
    order = WindowedOrder(sizes, seed=0, window=WINDOW)
    buffer = np.zeros((job.batch, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    starts = range(0, reader.samples, job.batch)
    spans = ((start, min(start + job.batch, reader.samples)) for start in starts)
    for numbers in reader.follow(numbers_of(order, spans)):
        images, _, originals = reader.gather(numbers, buffer[: len(numbers)])
        yield Batch(images, originals)
