"""Characters of the data laid on paper, in colour, as a camera or a scanner sees them."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Ink: TypeAlias = NDArray[np.float32]
"""How much ink there is, from 0 (paper) to 1, [H, W]."""
Colour: TypeAlias = NDArray[np.float32]
"""Gray levels of red, green and blue from 0 to 255, [H, W, 3]."""
Generator = np.random.Generator

BROWN, DARK, FADED, PALE = (200, 175, 130), (45, 36, 32), (128, 98, 78), (150, 118, 92)
"""Colours of old paper, and of ink that is black, faded and pale."""
SIDE = 200  # pixels of an enlarged character


def enlarged(character: NDArray[np.uint8], side: int = SIDE) -> Ink:
    """A character of the data with `side` pixels a side, its edges as sharp as before."""
    large = cv2.resize(character.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip((large - 0.5) * 2 + 0.5, 0, 1), np.float32)


def on_white(ink: Ink) -> Colour:
    """Black ink on white paper."""
    return np.repeat(255 * (1 - ink)[..., None], 3, axis=2)


def on_paper(ink: Ink, rng: Generator, paper: tuple[int, ...] = BROWN, colour: tuple[int, ...] = DARK) -> Colour:
    """Ink of a colour on cloudy paper with a little grain."""
    height, width = ink.shape
    clouds = cv2.resize(rng.normal(0, 6, (4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    sheet = np.asarray(paper, np.float32) + clouds[..., None] + rng.normal(0, 4, (height, width, 1))
    return mixed(sheet.astype(np.float32), colour, ink)


def mixed(under: Colour, colour: tuple[int, ...], amount: Ink) -> Colour:
    """A colour laid over something, as opaque as the amount says."""
    return (under + amount[..., None] * (np.asarray(colour, np.float32) - under)).astype(np.float32)


def framed(colour: Colour, sides: tuple[int, int, int, int], level: int) -> Colour:
    """With strips of a gray level added around: above, below, left, right, in pixels."""
    return cv2.copyMakeBorder(colour, *sides, cv2.BORDER_CONSTANT, value=(level,) * 3).astype(np.float32)


def margins(ink: Ink, above: float, below: float, left: float, right: float) -> Ink:
    """With blank margins, in fractions of its height and width."""
    height, width = ink.shape
    return np.pad(ink, ((int(above * height), int(below * height)), (int(left * width), int(right * width))))


def to_ink(ink: Ink) -> Ink:
    """Cropped to where there is ink."""
    x, y, width, height = cv2.boundingRect((ink > 0.3).astype(np.uint8))
    return ink[y : y + height, x : x + width]


def turned(ink: Ink, degrees: float) -> Ink:
    """Turned about its centre, in as large a picture."""
    height, width = ink.shape
    around = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(ink, around, (width, height)).astype(np.float32)


def slanted(colour: Colour, amount: float, rng: Generator) -> Colour:
    """Photographed at an angle: corners moved by up to this fraction of a side; edges repeat what is there."""
    height, width = colour.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + rng.uniform(-amount, amount, (4, 2)).astype(np.float32) * (width, height)
    view = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    return cv2.warpPerspective(colour, view, (width, height), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def beside(ink: Ink, neighbours: tuple[Ink, Ink], part: float) -> Ink:
    """With this fraction of a neighbour above and of one below."""
    rows = round(part * len(ink))
    above, below = neighbours
    return np.concatenate([above[len(above) - rows :], ink, below[:rows]])
