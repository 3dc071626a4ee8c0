"""MosaicML Streaming, with one MDS sample for each image.

Samples are decoded in Python, so worker processes help: 2 were 5 times as fast as none, 3 no faster than 2.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader

from benchmarks.peers import IMAGE_SIZE, WINDOW, Batch, Epoch, Job

PACKAGES = ("mosaicml-streaming", "torch")
AHEAD = 12


def write(job: Job) -> None:
    """Write shards of the job's size. The index holds the images' type and shape, so that samples need not."""
    columns = {"image": f"ndarray:uint8:{IMAGE_SIZE},{IMAGE_SIZE}", "label": "int"}
    with MDSWriter(out=job.folder, columns=columns, size_limit=job.shard_bytes, exist_ok=True) as writer:
        for number, image in enumerate(job.images()):
            writer.write({"image": np.asarray(image), "label": number})


def local(job: Job) -> Epoch:
    """Shuffled over the whole set (py1e, blocks of 4 M samples)."""
    dataset = StreamingDataset(local=job.folder, shuffle=True, batch_size=job.batch, num_canonical_nodes=1)

    def epoch() -> Iterator[Batch]:
        yield from _loader(dataset, job)

    return epoch


def bucket(job: Job) -> Iterator[Batch]:
    """It prefetches shards with a thread in each worker.

    Shuffled in blocks of WINDOW shards. By default it shuffles the whole set, and then the first batch waits for all
    shards: that was 0.2 times as fast at 100 ms of latency.
    """
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    dataset = StreamingDataset(
        remote=job.url,
        local=job.cache,
        shuffle=True,
        shuffle_block_size=WINDOW * job.shard_bytes // IMAGE_SIZE**2,
        batch_size=job.batch,
        num_canonical_nodes=1,
    )
    for stream in dataset.streams:
        # Otherwise the forked workers share one connection, and get wrong answers or wait for 60 s.
        stream._downloader.clean_up()
    yield from _loader(dataset, job)


def _loader(dataset: Any, job: Job) -> Any:
    return DataLoader(dataset, batch_size=job.batch, num_workers=job.threads, collate_fn=_collate)


def _collate(samples: list[dict[str, Any]]) -> Batch:
    images = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    return Batch(images, torch.tensor([sample["label"] for sample in samples]))
