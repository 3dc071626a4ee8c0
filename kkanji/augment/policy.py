"""The augmentation policy: what may happen to a training image, and how much of it.

This module is the definition; the kernels in this room carry it out. An augmented image is made in this order:

1. One bilinear resampling of the image moves every pixel by
   - an affine map about the image's centre: scale, shear and rotation, each uniform, then a shift, and
   - an elastic displacement: a coarse grid of normally distributed displacements, interpolated bilinearly. Simard,
     Steinkraus, Platt, Best practices for convolutional neural networks applied to visual document analysis, ICDAR
     2003, smooth per-pixel noise with a Gaussian filter instead. A coarse grid gives as smooth a field with 50 random
     numbers an image in place of 8,192 and two convolutions.
2. One box is erased to black with some probability: Zhong et al., Random erasing data augmentation, AAAI 2020,
   arXiv:1708.04896. Here the box may extend beyond the image, and black is the background of the data.
3. Gaussian noise is added to every pixel.

What happens to an image is a pure function of (policy, seed, its position in the sample stream): `sample_rows` turns
these into a row of numbers, and a backend applies the row. So an image is augmented alike by the offline tools, by
every backend, on any number of ranks and in a resumed run. There are two backends: `apply` here (Numba on the CPU, the
reference) and `kkanji.augment.triton_kernels` (one Triton kernel on the GPU). A test requires their images to be equal
bit for bit.

A row is float32 [ROW]:

- 0-5: the inverse affine map (a, b, c, d, e, f) about the image's centre. Output pixel (x, y) is taken from
  (a x + b y + c, d x + e y + f).
- 6: standard deviation of the noise in gray levels
- 7-10: the erased box (left, top, right, bottom) in pixels; empty if right <= left
- 11: key of the noise
- 12-61: elastic displacements in pixels, [2, NODES, NODES], all x before all y
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kkanji.augment import numba_kernels
from kkanji.augment.numba_kernels import ROW
from shards.format.layout import IMAGE_SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How strongly training images are augmented. With all fields at zero they stay as they are."""

    elastic_px: float = 1.6
    """Standard deviation of the elastic displacement at the nodes of its grid, in pixels."""
    rotate_degrees: float = 8.0
    """Largest rotation about the centre in degrees; uniform in both directions."""
    shear: float = 0.15
    """Largest horizontal shear (slant), as a fraction of the height; uniform in both directions."""
    scale: float = 0.12
    """Largest natural logarithm of the factors for width and height; each uniform in both directions."""
    shift_px: float = 3.0
    """Largest shift along each axis in pixels; uniform in both directions."""
    noise_levels: float = 12.0
    """Largest standard deviation of the noise, in gray levels of 255; uniform from 0 for each image."""
    erase_probability: float = 0.3
    """Probability that an image loses a box."""
    erase_px: float = 24.0
    """Largest width and height of that box in pixels; each uniform from 0."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < IMAGE_SIZE:
                raise ValueError(f"{field.name}={getattr(self, field.name)}; expected 0 or more, below {IMAGE_SIZE}")

    def scaled(self, strength: float) -> "Policy":
        """The same policy with every field multiplied by strength."""
        return Policy(**{field.name: getattr(self, field.name) * strength for field in fields(self)})

    def vector(self) -> NDArray[np.float32]:
        """The fields in their order, float32 [8], for compiled code."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.float32)


def sample_rows(policy: Policy, seed: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Sample the rows float32 [n, ROW] for the images at these positions [n] of the sample stream."""
    rows = np.empty((len(positions), ROW), np.float32)
    numba_kernels.sample(policy.vector(), np.uint64(seed), positions, rows)
    return rows


def apply(
    images: NDArray[np.uint8], rows: NDArray[np.float32], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Augment images uint8 [n, 64, 64] by rows [n, ROW], on all cores."""
    if out is None:
        out = np.empty(images.shape, np.uint8)
    cores = os.cpu_count() or 1
    parts = (np.array_split(array, cores) for array in (images, rows, out))
    list(_threads().map(numba_kernels.apply, *parts))
    return out


@cache
def _threads() -> ThreadPoolExecutor:
    """Python's threads: Numba's default threading layer aborts if two threads call parallel code at once."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kkanji-augment")
