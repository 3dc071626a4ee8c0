"""LitData, with one item for each image.

Without worker processes: on 2 cores, 2 of them were 0.6 times as fast from disk and 0.4 times from a bucket.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import downloader
from litdata.streaming.cache import Cache

from benchmarks.peers import IMAGE_SIZE, Batch, Epoch, Job

PACKAGES = ("litdata", "torch")
AHEAD = 2


def write(job: Job) -> None:
    """Write chunks of the job's size, with images as bytes."""
    cache = Cache(job.folder, chunk_bytes=job.shard_bytes)
    for number, image in enumerate(job.images()):
        cache[number] = {"image": image.tobytes(), "label": number}
    cache.done()
    cache.merge()


def local(job: Job) -> Epoch:
    """LitData shuffles chunks, and images in windows of 256 within a chunk, by default."""
    dataset = StreamingDataset(job.folder, shuffle=True)

    def epoch() -> Iterator[Batch]:
        yield from _loader(dataset, job)

    return epoch


def bucket(job: Job) -> Iterator[Batch]:
    """LitData prefetches chunks by asynchronous requests in a thread."""
    # It has no public option for plain HTTP.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    dataset = StreamingDataset(job.url, cache_dir=job.cache, shuffle=True, storage_options=options)
    yield from _loader(dataset, job)


def _loader(dataset: Any, job: Job) -> Any:
    return StreamingDataLoader(dataset, batch_size=job.batch, num_workers=0, collate_fn=_collate)


def _collate(samples: list[dict[str, Any]]) -> Batch:
    pixels = np.frombuffer(b"".join([sample["image"] for sample in samples]), np.uint8)
    labels = torch.tensor([sample["label"] for sample in samples])
    return Batch(torch.from_numpy(pixels.copy()).view(len(samples), IMAGE_SIZE, IMAGE_SIZE), labels)
