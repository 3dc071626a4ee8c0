"""The legacy project's transforms (its script 02_balance), one image at a time through SciPy and scikit-image.

Elastic: uniform noise smoothed with sigma 30, times 1,000. Affine: 15 degrees and 10 % about the corner, 5 pixels.
Noise: 5 % of white. Reimplemented from these figures and calls. It reads and writes no files, so it is faster here than
it was there.
"""

from collections.abc import Iterator
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage import transform

from benchmarks.peers import Batch, Epoch, Job, probe

PACKAGES = ("scipy", "scikit-image")
AHEAD = 0
ALPHA, SIGMA = 1000, 30
DEGREES, SCALE, SHIFT, NOISE = 15, 0.1, 5, 0.05
Gray = NDArray[np.float64]


def write(job: Job) -> None:
    """Write the augmented test images that `probe` measures."""
    probe.save(job, lambda images: _augment_all(images, noise=0.0), lambda images: _augment_all(images, noise=NOISE))


def local(job: Job) -> Epoch:
    """On one thread, one image at a time: a batch is one image."""
    images, rng = job.images(), np.random.RandomState(0)

    def epoch() -> Iterator[Batch]:
        for number in cycle(range(len(images))):
            augment(images[number], rng, NOISE)
            yield Batch(None, [number])

    return epoch


def augment(image: NDArray[np.uint8], rng: np.random.RandomState, noise: float) -> NDArray[np.uint8]:
    """Augment one image; in between, gray levels are fractions of white."""
    moved = affine(elastic(image / 255.0, rng), rng)
    noisy = np.clip(moved + noise * rng.normal(size=moved.shape), 0, 1)
    return (noisy * 255).astype(np.uint8)


def elastic(image: Gray, rng: np.random.RandomState) -> Gray:
    """Elastic displacement, bilinear, with the border mirrored."""
    x, y = (gaussian_filter(rng.rand(*image.shape) * 2 - 1, SIGMA, mode="constant", cval=0) * ALPHA for _ in "xy")
    rows, columns = np.indices(image.shape)
    return np.asarray(map_coordinates(image, (rows + y, columns + x), order=1, mode="reflect"))


def affine(image: Gray, rng: np.random.RandomState) -> Gray:
    """Rotation and scale about the corner, and shift; bilinear, with the border mirrored."""
    angle = np.deg2rad(rng.uniform(-DEGREES, DEGREES))
    scale = rng.uniform(1 - SCALE, 1 + SCALE)
    shift = (rng.uniform(-SHIFT, SHIFT), rng.uniform(-SHIFT, SHIFT))
    matrix = transform.AffineTransform(scale=(scale, scale), rotation=angle, translation=shift)
    return np.asarray(transform.warp(image, matrix.inverse, mode="reflect"))


def _augment_all(images: NDArray[np.uint8], noise: float) -> NDArray[np.uint8]:
    rng = np.random.RandomState(0)
    return np.stack([augment(image, rng, noise) for image in images])
