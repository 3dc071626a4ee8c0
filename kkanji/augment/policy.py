"""The augmentation policy: elastic and affine warp (one resampling), noise, erasing.

What happens to an image is a pure function of (policy, seed, its position in the sample stream): `draw` turns that into
a row of numbers, and a backend applies the row. So every backend, any number of ranks and a resumed run augment alike.
Two backends apply rows: `apply` here (Numba, the reference; offline tools and the CPU pipeline) and
`kkanji.augment.triton_kernels` (one Triton kernel; the GPU pipeline). A test holds them to the same images, bit for
bit.

A row, float32 [ROW]: 0-5 the inverse affine map a b c / d e f about the image's centre, 6 standard deviation of the
noise in gray levels, 7-10 the erased box (left, top, right, bottom; empty when right <= left), 11 noise key, then the
elastic displacements in pixels, [2, NODES, NODES], x before y.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kkanji.augment import numba_kernels as augment_kernels
from kkanji.augment.numba_kernels import ROW
from shards.format.layout import IMAGE_SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How strongly training images are varied. All zero: not at all."""

    elastic_px: float = 1.6
    """Standard deviation of the elastic displacement at the grid's nodes, pixels."""
    rotate_degrees: float = 8.0
    """Rotation about the centre, uniform within plus and minus this."""
    shear: float = 0.15
    """Horizontal shear (slant), uniform within plus and minus this."""
    scale: float = 0.12
    """Natural logarithm of the width and height factors, each uniform within plus and minus this."""
    shift_px: float = 3.0
    """Shift along each axis, uniform within plus and minus this, pixels."""
    noise_levels: float = 12.0
    """An image's noise has a standard deviation uniform from 0 to this, gray levels of 255."""
    erase_probability: float = 0.3
    """Share of images that lose a box."""
    erase_px: float = 24.0
    """Sides of that box, each uniform from 0 to this, pixels."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < IMAGE_SIZE:
                raise ValueError(f"{field.name}={getattr(self, field.name)}; expected 0 or more, below {IMAGE_SIZE}")

    def scaled(self, strength: float) -> "Policy":
        """The same policy, every number times strength."""
        return Policy(**{field.name: getattr(self, field.name) * strength for field in fields(self)})

    def vector(self) -> NDArray[np.float32]:
        """The numbers in the order of the fields, for compiled code."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.float32)


def sample_rows(policy: Policy, seed: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows [n, ROW] for the images at these positions of the sample stream."""
    rows = np.empty((len(positions), ROW), np.float32)
    augment_kernels.draw(policy.vector(), np.uint64(seed), positions, rows)
    return rows


def apply(
    images: NDArray[np.uint8], rows: NDArray[np.float32], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Augment images [n, 64, 64] by rows [n, ROW], on all cores."""
    if out is None:
        out = np.empty(images.shape, np.uint8)
    cores = os.cpu_count() or 1
    parts = (np.array_split(array, cores) for array in (images, rows, out))
    list(_threads().map(augment_kernels.apply, *parts))
    return out


@cache
def _threads() -> ThreadPoolExecutor:
    """Ours rather than Numba's: its default threading layer aborts when two threads call parallel code at once."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kkanji-augment")
