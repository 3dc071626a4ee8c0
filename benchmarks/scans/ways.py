"""The ways in which a scan differs from the data: each makes a picture of characters of the data, as a file's bytes."""

import io
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.scans.paper import (
    BROWN,
    DARK,
    FADED,
    PALE,
    SIDE,
    Colour,
    Generator,
    Ink,
    beside,
    enlarged,
    framed,
    margins,
    mixed,
    on_paper,
    on_white,
    slanted,
    to_ink,
    turned,
)

Characters: TypeAlias = NDArray[np.uint8]
"""Characters of the data, uint8 [3, 64, 64]: the one that is to be read, and two that may stand beside it."""
Way: TypeAlias = Callable[[Characters, Generator], bytes]
SEAL = (170, 35, 28)


def saved(colour: Colour, kind: str, **options: int) -> bytes:
    """The bytes of an image file; gray where the picture is."""
    levels = np.clip(np.rint(colour), 0, 255).astype(np.uint8)
    image = Image.fromarray(levels)
    if (levels == levels[..., :1]).all():
        image = image.convert("L")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


png = partial(saved, kind="PNG")
jpeg = partial(saved, kind="JPEG", quality=90)


def clean(characters: Characters, _: Generator) -> bytes:
    """As in the data."""
    return png(np.repeat(characters[0][..., None].astype(np.float32), 3, axis=2))


def inverted(characters: Characters, _: Generator) -> bytes:
    """The data's image, dark on light."""
    return png(on_white(characters[0].astype(np.float32) / 255))


def whitely(change: Callable[[Ink], Ink]) -> Way:
    """Black on white."""
    return lambda characters, _: png(on_white(change(enlarged(characters[0]))))


def brownly(
    change: Callable[[Ink], Ink] = lambda ink: ink,
    after: Callable[[Colour, Generator], Colour] = lambda colour, _: colour,
    *,
    quality: int = 90,
    paper: tuple[int, ...] = BROWN,
    ink: tuple[int, ...] = DARK,
) -> Way:
    """Ink on coloured paper. change: of the ink; after: of the picture."""

    def way(characters: Characters, rng: Generator) -> bytes:
        picture = after(on_paper(change(enlarged(characters[0])), rng, paper, ink), rng)
        return saved(picture, "JPEG", quality=quality)

    return way


def neighbours(part: float) -> Way:
    """Black on white between parts of other characters of the column."""

    def way(characters: Characters, _: Generator) -> bytes:
        ink, above, below = map(enlarged, characters)
        return png(on_white(beside(ink, (above, below), part)))

    return way


def shrunk(side: int) -> Way:
    """Black on white, of few pixels."""
    return lambda characters, _: png(
        on_white(cv2.resize(characters[0].astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_AREA))
    )


def grainy(colour: Colour, rng: Generator) -> Colour:
    """Noisy paper."""
    return colour + rng.normal(0, 15, colour.shape).astype(np.float32)


def lit(amount: float) -> Callable[[Colour, Generator], Colour]:
    """Light that falls off across the picture."""

    def after(colour: Colour, rng: Generator) -> Colour:
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[-0.5 : 0.5 : len(colour) * 1j, -0.5 : 0.5 : colour.shape[1] * 1j]
        light = (1 + amount * (x * np.cos(angle) + y * np.sin(angle))) * (1 - amount / 8)
        return np.asarray(colour * light[..., None], np.float32)

    return after


def shadowed(colour: Colour, _: Generator) -> Colour:
    """The right half in shadow."""
    dark = colour.copy()
    dark[:, colour.shape[1] // 2 :] *= 0.55
    return dark


def sealed(filled: bool) -> Callable[[Colour, Generator], Colour]:
    """With a red seal in the lower right."""

    def after(colour: Colour, _: Generator) -> Colour:
        height, width = colour.shape[:2]
        seal = np.zeros((height, width), np.float32)
        left, right, top, bottom = int(0.5 * width), int(0.95 * width), int(0.5 * height), int(0.95 * height)
        if filled:
            cv2.rectangle(seal, (left, top), (right, bottom), 0.75, -1)
            return mixed(colour, (180, 60, 50), seal)
        cv2.rectangle(seal, (left, top), (right, bottom), 0.85, 4)
        for part in (0.25, 0.5, 0.75):
            cv2.line(seal, (left, int(top + part * (bottom - top))), (right, int(top + part * (bottom - top))), 0.8, 3)
        cv2.line(seal, ((left + right) // 2, top), ((left + right) // 2, bottom), 0.8, 3)
        return mixed(colour, SEAL, seal)

    return after


def ruled(ink: Ink) -> Ink:
    """With a rule between columns near the right edge."""
    marked = ink.copy()
    place = int(ink.shape[1] * 0.94)
    marked[:, place : place + 5] = 0.95
    return marked


def boxed(ink: Ink) -> Ink:
    """In a frame of ink along the edges."""
    marked = ink.copy()
    cv2.rectangle(marked, (3, 3), (ink.shape[1] - 4, len(ink) - 4), 0.95, 7)
    return marked


def bleeding(characters: Characters, rng: Generator) -> bytes:
    """The page's other side shows through."""
    ink, other, _ = map(enlarged, characters)
    return jpeg(on_paper(np.maximum(ink, 0.35 * other[:, ::-1]), rng))


def eaten(colour: Colour, rng: Generator) -> Colour:
    """Worms left holes, and a white page is behind."""
    holes = np.zeros(colour.shape[:2], np.float32)
    for x, y in rng.uniform(0.05, 0.95, (5, 2)) * colour.shape[1::-1]:
        cv2.circle(holes, (int(x), int(y)), int(rng.uniform(7, 13)), 1.0, -1, cv2.LINE_AA)
    return mixed(colour, (250, 248, 244), holes)


def added(sides: tuple[int, int, int, int], level: int) -> Callable[[Colour, Generator], Colour]:
    """With strips around it."""
    return lambda colour, _: framed(colour, sides, level)


def tilted(colour: Colour, rng: Generator) -> Colour:
    """A sheet that lies askew on something black."""
    wide = framed(colour, (30, 30, 30, 30), 200)
    wide[:30], wide[-30:], wide[:, :30], wide[:, -30:] = BROWN, BROWN, BROWN, BROWN
    height, width = wide.shape[:2]
    around = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(4, 9), 1)
    return cv2.warpAffine(wide, around, (width, height), borderValue=(12, 12, 12)).astype(np.float32)


def squeezed(ink: Ink) -> Ink:
    """Of half the width."""
    return cv2.resize(ink, (ink.shape[1] // 2, len(ink)), interpolation=cv2.INTER_AREA).astype(np.float32)


def large(characters: Characters, rng: Generator) -> bytes:
    """Of many pixels."""
    return jpeg(on_paper(enlarged(characters[0], 1500), rng))


def blurred(colour: Colour, _: Generator) -> Colour:
    """Out of focus."""
    return cv2.GaussianBlur(colour, (0, 0), 6).astype(np.float32)


def deep(characters: Characters, rng: Generator) -> bytes:
    """12 bits in a TIFF of 16."""
    levels = on_paper(enlarged(characters[0]), rng).mean(2) / 255 * 4095
    buffer = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 4095).astype(np.uint16)).save(buffer, "TIFF")
    return buffer.getvalue()


WAYS: dict[str, Way] = {
    "as in the data": clean,
    "dark on light": inverted,
    "white paper, 200 px": whitely(lambda ink: ink),
    "brown paper": brownly(),
    "faded ink": brownly(ink=FADED),
    "pale ink, JPEG 30": brownly(ink=PALE, quality=30),
    "noisy paper": brownly(after=grainy),
    "uneven light 40 %": brownly(after=lit(0.4)),
    "uneven light 80 %": brownly(after=lit(0.8)),
    "half in shadow": brownly(after=shadowed),
    "seal, outline": brownly(after=sealed(False)),
    "seal, filled": brownly(after=sealed(True)),
    "neighbours 10 %": neighbours(0.1),
    "neighbours 20 %": neighbours(0.2),
    "rule at the right": brownly(ruled),
    "frame of ink": brownly(boxed),
    "photo at an angle 12 %": brownly(after=lambda colour, rng: slanted(colour, 0.12, rng)),
    "turned 8 degrees": brownly(lambda ink: turned(ink, 8)),
    "turned 15 degrees": brownly(lambda ink: turned(ink, -15)),
    "turned 90 degrees": brownly(lambda ink: np.rot90(ink).copy()),
    "JPEG 10": brownly(quality=10),
    "margin 25 %": whitely(lambda ink: margins(ink, 0.25, 0.25, 0.25, 0.25)),
    "margin 50 %": whitely(lambda ink: margins(ink, 0.5, 0.5, 0.5, 0.5)),
    "margin 100 %": whitely(lambda ink: margins(ink, 1, 1, 1, 1)),
    "off centre": whitely(lambda ink: margins(ink, 0, 1, 0, 1)),
    "cropped to the ink": whitely(to_ink),
    "cut off 10 % at the left": whitely(lambda ink: ink[:, SIDE // 10 :]),
    "24 px": shrunk(24),
    "16 px": shrunk(16),
    "1,500 px": large,
    "blurred": brownly(after=blurred),
    "squeezed to half width": whitely(squeezed),
    "tall crop": whitely(lambda ink: margins(ink, 0.5, 0.5, 0, 0)),
    "bleed-through": bleeding,
    "worm holes": brownly(after=eaten),
    "black strip at the left": brownly(after=added((0, 0, 20, 0), 8)),
    "black surround": brownly(after=added((25, 25, 25, 25), 6)),
    "white ink on blue paper": brownly(paper=(38, 52, 110), ink=(232, 232, 228)),
    "dark mat": brownly(paper=(110, 100, 84), ink=(28, 26, 24)),
    "sheet askew on black": brownly(after=tilted),
    "white surround": brownly(after=added((30, 30, 30, 30), 250)),
    "12 bits in 16": deep,
}
