"""The webdataset library: a raw .bin and a .cls for each image, its usual layout without the cost of decoding."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from benchmarks.peers import IMAGE_SIZE, Batch, Epoch, Job

PACKAGES = ("webdataset", "torch")
AHEAD = 12
SHUFFLE_BUFFER = 5_000
SAMPLE_BYTES = 3 * 512 + IMAGE_SIZE * IMAGE_SIZE  # two tar headers, a padded label, and the image


def write(job: Job) -> None:
    """Write tar files of the job's size with Python's tarfile."""
    images, in_shard = job.images(), job.shard_bytes // SAMPLE_BYTES
    for shard, first in enumerate(range(0, len(images), in_shard)):
        with tarfile.open(Path(job.folder) / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, min(first + in_shard, len(images))):
                _add(tar, f"{number:09d}.bin", images[number].tobytes())
                _add(tar, f"{number:09d}.cls", str(number).encode())


def local(job: Job) -> Epoch:
    """It shuffles shards, and images in a buffer of 5,000."""

    def epoch() -> Iterator[Batch]:
        yield from _loader([str(path) for path in job.files(".tar")], job)

    return epoch


def bucket(job: Job) -> Iterator[Batch]:
    """Each worker reads its shards one after another, through `curl`."""
    yield from _loader([f"pipe:curl -s -L -f {job.public_url}/{path.name}" for path in job.files(".tar")], job)


def _loader(urls: list[str], job: Job) -> Any:
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), nodesplitter=webdataset.split_by_node)
        .shuffle(SHUFFLE_BUFFER)
        .to_tuple("bin", "cls")
        .batched(job.batch, collation_fn=_collate)
    )
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=min(job.threads, len(urls)))


def _collate(samples: list[tuple[bytes, bytes]]) -> Batch:
    pixels = np.frombuffer(b"".join([image for image, _ in samples]), np.uint8)
    labels = torch.tensor([int(label) for _, label in samples])
    return Batch(torch.from_numpy(pixels.copy()).view(len(samples), IMAGE_SIZE, IMAGE_SIZE), labels)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
