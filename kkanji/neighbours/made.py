"""Images that show none of a model's characters, made to learn what they look like to it.

Each has the form in which images come to the network: uint8 [64, 64], white ink on black.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from kkanji.glyphs import render_glyph
from shards.format.layout import IMAGE_SIZE

Image = NDArray[np.uint8]
Maker = Callable[[NDArray[np.uint8], np.random.Generator], Image]
"""Makes an image from characters [n, 64, 64], of which it may use some."""
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&%?!"
KANA = "".join(map(chr, (*range(0x3041, 0x3094), *range(0x30A1, 0x30FB))))


def make(characters: NDArray[np.uint8], kind: str, count: int, *, seed: int) -> NDArray[np.uint8]:
    """Images [count, 64, 64] of a kind of KINDS. characters: images of single characters [n, 64, 64], n at least 1."""
    rng = np.random.default_rng([seed, *kind.encode()])
    return np.stack([KINDS[kind][1](characters, rng) for _ in range(count)])


def _noise(_: NDArray[np.uint8], rng: np.random.Generator) -> Image:
    """Noise of any grain, some of it faint."""
    side = int(rng.choice([64, 48, 32, 16]))
    grain = rng.random((side, side)) ** rng.uniform(0.3, 8)
    return _stretched(_enlarged(grain), rng.uniform(0.3, 1))


def _paper(_: NDArray[np.uint8], rng: np.random.Generator) -> Image:
    """Blank paper with its stains, as it looks when its gray levels are stretched."""
    stains = _enlarged(rng.random((int(rng.integers(2, 10)),) * 2)) + rng.uniform(0, 0.3) * rng.random((64, 64))
    return _stretched(np.maximum(stains - np.quantile(stains, rng.uniform(0, 0.9)), 0), rng.uniform(0.1, 1))


def _ramp(_: NDArray[np.uint8], rng: np.random.Generator) -> Image:
    """A gradient along a line, or from a point."""
    y, x = np.mgrid[-1 : 1 : IMAGE_SIZE * 1j, -1 : 1 : IMAGE_SIZE * 1j]
    angle, (down, right) = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1, 2)
    line = rng.random() < 0.6
    slope = x * np.cos(angle) + y * np.sin(angle) if line else np.hypot(y - down, x - right)
    return _stretched(np.clip(slope - rng.uniform(-1, 0.5), 0, None) ** rng.uniform(0.5, 2), 1)


def _typeset(alphabet: str, _: NDArray[np.uint8], rng: np.random.Generator) -> Image:
    """A typeset character as if written: bent, turned, thinner or thicker, and seen as sharply as chance has it."""
    glyph = render_glyph(str(rng.choice(list(alphabet))), IMAGE_SIZE)
    width = int(rng.integers(1, 5))
    change = cv2.dilate if rng.random() < 0.7 else cv2.erode
    glyph = change(glyph, np.ones((width, max(1, width - int(rng.integers(2)))), np.uint8)).astype(np.uint8)
    bend = [_enlarged(rng.normal(0, 3, (4, 4))) for _ in range(2)]
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE].astype(np.float64)
    (a, b), (c, d) = np.eye(2) / rng.uniform(0.8, 1.25, 2) + rng.uniform(-0.25, 0.25, (2, 2))
    across, down = (x - 32) * a + (y - 32) * b + 32 + bend[0], (x - 32) * c + (y - 32) * d + 32 + bend[1]
    bent = cv2.remap(glyph, across.astype(np.float32), down.astype(np.float32), cv2.INTER_LINEAR)
    side = int(rng.integers(20, IMAGE_SIZE, endpoint=True))
    coarse = cv2.resize(bent, (side, side), interpolation=cv2.INTER_AREA)
    return _stretched(np.clip(_enlarged(coarse.astype(np.float64)), 0, 255), 1)


def _grid(
    rows: tuple[int, int], columns: tuple[int, int], characters: NDArray[np.uint8], rng: np.random.Generator
) -> Image:
    """Characters in a grid, reduced to one image. rows, columns: least and most of them."""
    down, right = rng.integers(*rows, endpoint=True), rng.integers(*columns, endpoint=True)
    chosen = characters[rng.integers(len(characters), size=down * right)]
    page = chosen.reshape(down, right, IMAGE_SIZE, IMAGE_SIZE).swapaxes(1, 2).reshape(down * IMAGE_SIZE, -1)
    scale = 1 / max(down, right)
    small = cv2.resize(page, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:IMAGE_SIZE, :IMAGE_SIZE]
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    top, left = (IMAGE_SIZE - small.shape[0]) // 2, (IMAGE_SIZE - small.shape[1]) // 2
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    return _stretched(image.astype(np.float64), 1)


def _enlarged(grain: NDArray[np.float64]) -> NDArray[np.float64]:
    return cv2.resize(grain, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC).astype(np.float64)


def _stretched(levels: NDArray[np.float64], most: float) -> Image:
    """From black to this part of white."""
    levels = levels - levels.min()
    stretched: NDArray[np.float64] = np.rint(levels / max(levels.max(), 1e-9) * 255 * most)
    return stretched.astype(np.uint8)


NOTHING, SEVERAL, OTHER = "no writing", "more than one character", "another script"
KINDS: dict[str, tuple[str, Maker]] = {
    "noise": (NOTHING, _noise),
    "paper": (NOTHING, _paper),
    "ramp": (NOTHING, _ramp),
    "two characters": (SEVERAL, partial(_grid, (1, 1), (2, 2))),
    "two in a column": (SEVERAL, partial(_grid, (2, 2), (1, 1))),
    "a column": (SEVERAL, partial(_grid, (3, 8), (1, 1))),
    "a page": (SEVERAL, partial(_grid, (4, 10), (4, 10))),
    "two by two": (SEVERAL, partial(_grid, (2, 2), (2, 2))),
    "Latin": (OTHER, partial(_typeset, LATIN)),
    "kana, typeset": (OTHER, partial(_typeset, KANA)),
}
"""What is made: why it is none of the model's characters, and its maker."""
