"""The limit of a host feed: NumPy's own gather of rows in memory into a preallocated buffer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import IMAGE_SIZE, Batch, Epoch, Job

PACKAGES = ()
AHEAD = 1


def local(job: Job) -> Epoch:
    """np.take of random rows, chosen beforehand, on all threads of the job. It releases the GIL."""
    memory = np.array(job.images()).reshape(-1, IMAGE_SIZE * IMAGE_SIZE)
    buffer = np.zeros((job.batch, memory.shape[1]), np.uint8)
    numbers = np.random.default_rng(0).permutation(len(memory))
    batches = [numbers[first : first + job.batch] for first in range(0, len(memory) - job.batch + 1, job.batch)]
    pool = ThreadPoolExecutor(job.threads)

    def take(part: tuple[NDArray[np.int64], NDArray[np.uint8]]) -> None:
        np.take(memory, part[0], axis=0, out=part[1], mode="clip")

    def epoch() -> Iterator[Batch]:
        for chosen in cycle(batches):
            parts = zip(np.array_split(chosen, job.threads), np.array_split(buffer, job.threads), strict=True)
            list(pool.map(take, parts))
            yield Batch(buffer, chosen)

    return epoch
