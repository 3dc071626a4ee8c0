"""The first version's preparation, to compare with: one absolute threshold, one stretch, no search for ink."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards.format.layout import IMAGE_SIZE

LIGHT = 127  # level of the border above which it is taken for light paper
CLEAN = 16  # level of paper that counts as black


def prepared_before(picture: bytes) -> NDArray[np.uint8]:
    """The content of an image file as uint8 [64, 64], white ink on black: what was given to the model."""
    with Image.open(io.BytesIO(picture)) as image:
        gray = _gray(image)
    ink = _stretched(255 - gray if np.median(_border(gray)) > LIGHT else gray)
    return ink if ink.shape == (IMAGE_SIZE, IMAGE_SIZE) else _fitted(ink)


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    """Gray levels [H, W]; of 16 bits the upper 8."""
    if image.mode.startswith("I"):
        return np.asarray(np.rint(np.asarray(image) / 65535 * 255), np.uint8)
    return np.asarray(image.convert("L"))


def _border(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def _stretched(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With the paper's level at 0 and the strongest ink's at 255, unless the paper is black already."""
    paper, strongest = float(np.median(_border(ink))), float(ink.max())
    if paper <= CLEAN or strongest <= paper:
        return ink
    return np.asarray(np.clip(np.rint((ink - paper) / (strongest - paper) * 255), 0, 255), np.uint8)


def _fitted(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole picture, its longer side scaled to 64 pixels, in the middle of black."""
    fitted = ImageOps.pad(Image.fromarray(ink), (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(fitted)
