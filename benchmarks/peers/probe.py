"""What a way to vary images does to them, seen from outside: test images varied, to be measured by whoever compares.

NumPy alone: peers of other environments use it too.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import IMAGE_SIZE, Job

Images = NDArray[np.uint8]
Vary = Callable[[Images], Images]

COUNT = 2_000
LEVEL = 4  # gray levels a pixel of the ramps: 252 at the last
GRAY = 128
CENTRE = slice(IMAGE_SIZE * 3 // 8, IMAGE_SIZE * 5 // 8)  # 16 pixels, which few displacements bring to the border


def save(job: Job, move: Vary, noisy: Vary) -> None:
    """Write what becomes of ramps and of gray. move: the warp alone, the same at each call; noisy: everything."""
    ramp = np.tile(LEVEL * np.arange(IMAGE_SIZE, dtype=np.uint8), (IMAGE_SIZE, 1))
    for name, image in (("across", ramp), ("down", ramp.T)):
        np.save(Path(job.folder) / f"{name}.npy", move(np.repeat(image[None], COUNT, axis=0)))
    np.save(Path(job.folder) / "gray.npy", noisy(np.full((COUNT, IMAGE_SIZE, IMAGE_SIZE), GRAY, np.uint8)))


def measure(folder: Path) -> dict[str, float]:
    """Statistics of what `save` wrote, see `statistics`."""
    return statistics(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("across", "down", "gray")))


def statistics(across: Images, down: Images, gray: Images) -> dict[str, float]:
    """How far pixels about the centre move (root mean square, mean and spread over images, pixels), how much they move
    against each other within 16 pixels (root mean square), and the noise's standard deviation (gray levels)."""
    places = np.stack([across, down])[:, :, CENTRE, CENTRE] / LEVEL  # [2, n, 16, 16]: column and row they came from
    columns, rows = np.meshgrid(*[np.arange(IMAGE_SIZE)[CENTRE]] * 2)
    moved = places - np.stack([columns, rows])[:, None]
    shift = moved.mean(axis=(2, 3), keepdims=True)
    distance = np.hypot(*shift)
    return {
        "rms_displacement_px": float(np.sqrt((distance**2).mean())),
        "mean_displacement_px": float(distance.mean()),
        "spread_of_displacement_px": float(distance.std()),
        "deformation_px": float(np.sqrt(((moved - shift) ** 2).sum(axis=0).mean())),
        "noise_levels": float(gray[:, CENTRE, CENTRE].astype(np.float64).std()),
    }
