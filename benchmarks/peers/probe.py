"""Measure what an augmentation does, from its effect on test images: displacement, deformation and noise.

So augmentations with different parameters can be compared. Needs only NumPy, as peers in other environments use it too.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import IMAGE_SIZE, Job

Images = NDArray[np.uint8]
Augment = Callable[[Images], Images]

COUNT = 2_000  # test images of each kind
LEVEL = 4  # slope of the ramps in gray levels a pixel: 252 at the last pixel
GRAY = 128
CENTRE = slice(IMAGE_SIZE * 3 // 8, IMAGE_SIZE * 5 // 8)  # 16 pixels, which few displacements move to the border


def save(job: Job, warp: Augment, augment: Augment) -> None:
    """Write augmented test images: ramps, whose gray levels tell where a pixel came from, and uniform gray.

    warp: the augmentation without noise, the same at every call. augment: the whole augmentation.
    """
    ramp = np.tile(LEVEL * np.arange(IMAGE_SIZE, dtype=np.uint8), (IMAGE_SIZE, 1))
    for name, image in (("across", ramp), ("down", ramp.T)):
        np.save(Path(job.folder) / f"{name}.npy", warp(np.repeat(image[None], COUNT, axis=0)))
    np.save(Path(job.folder) / "gray.npy", augment(np.full((COUNT, IMAGE_SIZE, IMAGE_SIZE), GRAY, np.uint8)))


def measure(folder: Path) -> dict[str, float]:
    """The `statistics` of the images that `save` wrote."""
    return statistics(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("across", "down", "gray")))


def statistics(across: Images, down: Images, gray: Images) -> dict[str, float]:
    """Displacement, deformation and noise at the centre of augmented ramps and gray images.

    Displacement in pixels is that of the 16x16 pixels together: its root mean square, mean and standard deviation over
    images. Deformation is the root mean square of their displacement relative to each other. Noise is the standard
    deviation in gray levels.
    """
    places = np.stack([across, down])[:, :, CENTRE, CENTRE] / LEVEL  # [2, n, 16, 16]: source column and row of a pixel
    columns, rows = np.meshgrid(*[np.arange(IMAGE_SIZE)[CENTRE]] * 2)
    moved = places - np.stack([columns, rows])[:, None]
    shift = moved.mean(axis=(2, 3), keepdims=True)  # of all 16x16 pixels together
    distance = np.hypot(*shift)
    return {
        "rms_displacement_px": float(np.sqrt((distance**2).mean())),
        "mean_displacement_px": float(distance.mean()),
        "spread_of_displacement_px": float(distance.std()),
        "deformation_px": float(np.sqrt(((moved - shift) ** 2).sum(axis=0).mean())),
        "noise_levels": float(gray[:, CENTRE, CENTRE].astype(np.float64).std()),
    }
