"""kkanji's augmentation policy as the tools apply it offline: rows drawn, then one fused pass over each image."""

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
"""Fitted so that its statistics are those of the original's transforms (a test compares them): displacement,
deformation and noise by their root mean squares. The shift stands for the original's turn about the corner and its
near-rigid "elastic" as well. It is uniform where theirs is near-normal: less spread (3.6 for 4.7 pixels), more mean."""


def write(job: Job) -> None:
    """What becomes of the test images."""
    move, everything = replace(MATCHED, noise_levels=0.0), MATCHED
    probe.save(job, lambda images: vary(images, move), lambda images: vary(images, everything))


def matched(job: Job) -> Epoch:
    """At the original's statistics."""
    return _epoch(job, MATCHED)


def default(job: Job) -> Epoch:
    """As training uses it."""
    return _epoch(job, Policy())


def vary(images: Images, policy: Policy, first: int = 0) -> Images:
    """Images numbered from first on, on this thread."""
    out = np.empty_like(images)
    numba_kernels.apply(images, sample_rows(policy, 0, np.arange(first, first + len(images))), out)
    return out


def _epoch(job: Job, policy: Policy) -> Epoch:
    images, pool = job.images()[: job.batch].copy(), ThreadPoolExecutor(job.threads)

    def epoch() -> Iterator[Batch]:
        for first in count(0, job.batch):
            parts = np.array_split(images, job.threads)
            list(pool.map(lambda part, start=first: vary(part, policy, start), parts))
            yield Batch(None, np.arange(job.batch))

    return epoch
