"""torch.utils.data on a memory map: a DataLoader without workers that gets a whole batch by one `__getitems__`.

With 2 worker processes it was 0.3-0.4 times as fast, as each batch is copied through shared memory.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import IMAGE_SIZE, Batch, Epoch, Job

PACKAGES = ("torch",)
AHEAD = 1


class _Images(Dataset[Any]):
    def __init__(self, job: Job) -> None:
        self.images = torch.from_numpy(np.load(f"{job.source}/images.npy", mmap_mode="c")).flatten(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, numbers: torch.Tensor) -> Batch:
        return Batch(torch.index_select(self.images, 0, numbers).view(-1, IMAGE_SIZE, IMAGE_SIZE), numbers)


class _Batches:
    """Random sample numbers as tensors: RandomSampler's lists of Python integers would take half of the time."""

    def __init__(self, samples: int, batch: int) -> None:
        self.samples, self.batch = samples, batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.randperm(self.samples).split(self.batch))


def _identity(batch: Any) -> Any:
    """In place of the default collate function, as batches are tensors already."""
    return batch


def local(job: Job) -> Epoch:
    """index_select uses the job's number of threads."""
    torch.set_num_threads(job.threads)
    images = _Images(job)
    sampler: Any = _Batches(len(images), job.batch)
    loader = DataLoader(images, batch_sampler=sampler, collate_fn=_identity, num_workers=0)

    def epoch() -> Iterator[Batch]:
        yield from loader

    return epoch
