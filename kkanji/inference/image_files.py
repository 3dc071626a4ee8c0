"""Image files as people have them, of one character each, made into the pixels that the models know.

Any size, gray or colour, transparent, 16-bit, turned by a camera; light ink on dark or dark on light, on white paper or
on brown. What cannot be such a picture is refused with a sentence that names the file.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards import InputError
from shards.format.layout import IMAGE_SIZE

LARGEST_PIXELS = 4096 * 4096  # more is no picture of one character, and could be a decompression bomb
CLEAN = 16  # gray levels of the paper that are left as they are: the data's own backgrounds are black but for noise
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def load_character(path: Path) -> NDArray[np.uint8]:
    """An image file as the models know characters: uint8 [64, 64], white ink on black.

    Dark ink on light paper is inverted; other sizes are scaled to fit, keeping their proportions, on black; paper that
    is not clean becomes black and the strongest ink white. Raises InputError naming the file and what is wrong with it.
    """
    gray = _read_gray(path)
    if gray.min() == gray.max():
        raise InputError(f"{path}: every pixel is {gray.min()}; expected a picture of one character")
    ink = _on_black(255 - gray if np.median(_border(gray)) > 127 else gray)
    return ink if ink.shape == (IMAGE_SIZE, IMAGE_SIZE) else _fit(ink)


def _read_gray(path: Path) -> NDArray[np.uint8]:
    """Gray levels [H, W] of the file, or InputError, whatever its bytes are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata and of large images; the size is checked
            with Image.open(path) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise InputError(
                        f"{path}: {image.width}x{image.height} pixels; expected a picture of one character"
                    )
                return _gray(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's readers raise anything on damaged files: OSError, SyntaxError, ValueError ...
        found = f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path}: not a readable image ({found}); expected PNG, JPEG or another Pillow reads"
        ) from error


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return _of_deep(np.asarray(image, np.float64))
    gray = _opaque(image, "white")
    return _opaque(image, "black") if gray.min() == gray.max() else gray  # white ink on nothing


def _of_deep(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """16-bit, 32-bit and floating-point images: 65,535 or 1 is white, where they do not go over it."""
    white = next((white for white in (1.0, 255.0, 65535.0) if levels.max() <= white), float(levels.max()))
    return np.clip(np.rint(levels / white * 255), 0, 255).astype(np.uint8)


def _opaque(image: Image.Image, paper: str) -> NDArray[np.uint8]:
    """Gray levels; transparent parts count as paper."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, paper), layered)
    return np.asarray(image.convert("L"))


def _border(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def _on_black(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretch the levels from paper to ink over the whole range, unless the paper is black already."""
    paper, strongest = float(np.median(_border(ink))), float(ink.max())
    if paper <= CLEAN or strongest <= paper:
        return ink
    stretched: NDArray[np.float64] = np.clip(np.rint((ink - paper) / (strongest - paper) * 255), 0, 255)
    return stretched.astype(np.uint8)


def _fit(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = ink.shape
    scale = IMAGE_SIZE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS)
    result = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    result.paste(scaled, ((IMAGE_SIZE - size[0]) // 2, (IMAGE_SIZE - size[1]) // 2))
    return np.asarray(result)
