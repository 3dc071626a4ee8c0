"""kkanji's augmentation policy as the tools apply it offline: sample the rows, then augment each image in one pass."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Batch, Epoch, Job, probe
from kkanji.augment import numba_kernels
from kkanji.augment.policy import Policy, sample_rows

PACKAGES = ("numba",)
AHEAD = 1
Images = NDArray[np.uint8]

MATCHED = Policy(
    elastic_px=1.6,
    rotate_degrees=15.0,
    shear=0.0,
    scale=0.1,
    shift_px=12.5,
    noise_levels=22.0,
    erase_probability=0.0,
    erase_px=0.0,
)
"""Fitted to the statistics of the legacy transforms: displacement, deformation and noise have equal root mean squares,
and a test compares them. The shift also stands for the legacy rotation about the corner and for its near-rigid
"elastic". It is uniform where the legacy displacement is near-normal, so it varies less (by 3.6 pixels, not 4.7) around
a greater mean."""


def write(job: Job) -> None:
    """Write the augmented test images that `probe` measures."""
    warp_only = replace(MATCHED, noise_levels=0.0)
    probe.save(job, lambda images: augment(images, warp_only), lambda images: augment(images, MATCHED))


def matched(job: Job) -> Epoch:
    """With the statistics of the legacy transforms."""
    return _epoch(job, MATCHED)


def default(job: Job) -> Epoch:
    """With the default policy, as training uses it."""
    return _epoch(job, Policy())


def augment(images: Images, policy: Policy, first: int = 0) -> Images:
    """Augment images at the positions first, first + 1, ... of a sample stream, on this thread."""
    out = np.empty_like(images)
    numba_kernels.apply(images, sample_rows(policy, 0, np.arange(first, first + len(images))), out)
    return out


def _epoch(job: Job, policy: Policy) -> Epoch:
    images = job.images()[: job.batch].copy()
    pool = ThreadPoolExecutor(job.threads)

    def epoch() -> Iterator[Batch]:
        for first in count(0, job.batch):
            parts = np.array_split(images, job.threads)
            list(pool.map(lambda part, start=first: augment(part, policy, start), parts))
            yield Batch(None, np.arange(job.batch))

    return epoch
