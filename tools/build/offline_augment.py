"""Recipes that augment training images offline: the policy of online training, and the legacy project's to compare.

A recipe is a function of (images, seed, numbers): the augmentation of an image depends on its number in the set alone.
"""

import zlib
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from kkanji.augment import numba_kernels
from kkanji.augment.policy import Policy, sample_rows
from shards import IMAGE_SIZE, InputError

Images = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Recipe = Callable[[Images, int, Numbers], Images]
Name = Literal["policy", "legacy"]

STRONGEST = 2.0  # as in training

# The legacy project's figures (its script 02_balance), in pixels, degrees and fractions of white.
ELASTIC_ALPHA, ELASTIC_SIGMA = 1000.0, 30.0
ROTATION, SCALE, SHIFT, NOISE = 15.0, 0.1, 5.0, 0.05
TRUNCATE = 4  # standard deviations at which SciPy truncates a Gaussian


def find_recipe(name: Name, strength: float) -> Recipe:
    """The recipe of a name. strength: of the policy; the legacy recipe has none. Raises InputError."""
    if not 0 <= strength <= STRONGEST:
        raise InputError(f"--augment {strength}: expected 0 to {STRONGEST:g}")
    return legacy if name == "legacy" else partial(by_policy, Policy().scaled(strength))


def describe(name: Name, strength: float) -> dict[str, Any]:
    """The recipe and its options, for the manifest."""
    if name == "legacy":
        return {"recipe": name}
    return {"recipe": name, "augment": strength, "policy": asdict(Policy().scaled(strength))}


def fingerprint(recipe: Recipe) -> str:
    """CRC-32 of augmented test images.

    Two kinds of processor may round differently, and then the parts of one set would not fit together. Also compiles
    the kernels, here in the main thread, where signals can interrupt it.
    """
    ramp = np.add.outer(np.arange(IMAGE_SIZE), 3 * np.arange(IMAGE_SIZE)).astype(np.uint8)
    images = recipe(np.repeat(ramp[None], 64, axis=0), 0, np.arange(64))
    return f"{zlib.crc32(images.tobytes()):08x}"


def by_policy(policy: Policy, images: Images, seed: int, numbers: Numbers) -> Images:
    """Augment images [n, 64, 64] as online training does. Uses the calling thread alone and releases the GIL."""
    out = np.empty_like(images)
    numba_kernels.apply(images, sample_rows(policy, seed, numbers), out)
    return out


def legacy(images: Images, seed: int, numbers: Numbers) -> Images:
    """Augment images [n, 64, 64] as the legacy project did: elastic, then affine about the corner, then noise.

    Its distributions, borders, two resamplings and truncated levels are the same, as is its near-rigid "elastic"; the
    random numbers differ. OpenCV resamples at 1/32 pixel, which moves levels by a few of 255 at the edges of strokes.
    """
    cv2.setNumThreads(1)  # OpenCV's thread pool would not survive the forks of tools.build.processes
    out = np.empty_like(images)
    for image, number, result in zip(images, numbers.tolist(), out, strict=True):
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        warped = affine(elastic(image.astype(np.float32) / 255, rng), rng)
        noisy = warped + NOISE * rng.standard_normal(warped.shape, np.float32)
        result[:] = (np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    return out


def elastic(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Displace by uniform noise, smoothed over almost half of the image (Simard et al. 2003); the border mirrors."""
    smooth = smoothing()
    x, y = (ELASTIC_ALPHA * smooth @ rng.uniform(-1, 1, image.shape) @ smooth.T for _ in "xy")
    rows, columns = np.indices(image.shape)
    places = (columns + x).astype(np.float32), (rows + y).astype(np.float32)
    return np.asarray(cv2.remap(image, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)


@cache
def smoothing() -> NDArray[np.float64]:
    """A Gaussian filter along one axis as a matrix, zero outside of the image."""
    reach = np.arange(-int(TRUNCATE * ELASTIC_SIGMA + 0.5), int(TRUNCATE * ELASTIC_SIGMA + 0.5) + 1)
    total = np.exp(-0.5 * (reach / ELASTIC_SIGMA) ** 2).sum()
    distance = np.subtract.outer(np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE))
    return np.asarray(np.exp(-0.5 * (distance / ELASTIC_SIGMA) ** 2) / total)


def affine(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotate and scale about the corner, then shift; the border mirrors, without its last pixel."""
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    scale = rng.uniform(1 - SCALE, 1 + SCALE)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    forward = np.array([[cosine, -sine, rng.uniform(-SHIFT, SHIFT)], [sine, cosine, rng.uniform(-SHIFT, SHIFT)]])
    moved = cv2.warpAffine(
        image, forward, (IMAGE_SIZE, IMAGE_SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.float32)
