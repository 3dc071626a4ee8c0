"""Characters rendered from brush fonts, varied as handwriting varies."""

import hashlib
import io
import logging
from pathlib import Path

import cv2
import numpy as np
from fontTools.pens.boundsPen import BoundsPen
from fontTools.ttLib import TTFont, TTLibError
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shards import InputError

PAGE = 320  # large pixels: room for the outline to move


OUTLINE = 224  # large pixels of the outline's longer side on that page


BOX = 256  # large pixels of the framed drawing, reduced to SIDE at the end


SIDE = 64  # pixels of a finished image, as in Kuzushiji-Kanji


LEVELS = 16  # gray levels of a finished image: twice as many would not be seen, and would not fit the size allowed


Large = NDArray[np.float32]


Gray = NDArray[np.uint8]


def generator(seed: int, character: str, number: int) -> np.random.Generator:
    """The random numbers of one image: they depend on no other image, so characters may come and go."""
    key = np.array([seed, ord(character) << 32 | number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class Face:
    """One brush font, asked only for characters it really draws."""

    def __init__(self, path: Path) -> None:
        # Two of the fonts carry a creation date before 1970, of which fontTools would warn once a table.
        logging.getLogger("fontTools").setLevel(logging.ERROR)
        self.name = path.name
        try:
            # By way of memory: both libraries would keep the file open.
            content = path.read_bytes()
            self.sha256 = hashlib.sha256(content).hexdigest()
            tables = TTFont(io.BytesIO(content), lazy=True)
            self._names = tables.getBestCmap()
            self._glyphs = tables.getGlyphSet()
            # The basic layout: what the optional Raqm library would do depends on its presence.
            self._drawing = ImageFont.truetype(io.BytesIO(content), BOX, layout_engine=ImageFont.Layout.BASIC)
        except (TTLibError, OSError) as error:
            raise InputError(f"{path} cannot be read as a font ({error}): install its Debian package again") from error

    def has_glyph(self, character: str) -> bool:
        """Whether there is an outline: these fonts list thousands of characters whose glyph is empty."""
        name = self._names.get(ord(character))
        if name is None:
            return False
        pen = BoundsPen(self._glyphs)
        self._glyphs[name].draw(pen)
        return pen.bounds is not None

    def outline(self, character: str) -> Large:
        """The character (P, P) in 0..1, its longer side OUTLINE, in the middle of the page."""
        left, top, right, bottom = (int(edge) for edge in self._drawing.getbbox(character))
        picture = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(picture).text((-left, -top), character, fill=255, font=self._drawing)
        return fit(np.asarray(picture, dtype=np.float32) / np.float32(255), PAGE, OUTLINE, (0.5, 0.5))


def render_character(outline: Large, rng: np.random.Generator) -> Gray:
    """One image (SIDE, SIDE) of an outline (P, P), unlike any other: shape, weight, place, ink and paper vary."""
    ink = weigh(bend(outline, rng), rng)
    ink = dry(frame(ink, rng), rng)
    page = soil(ink, rng)
    small = cv2.resize(page, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (5, 5), rng.uniform(0.1, 0.55))
    # Scans are thresholded softly: paper is black and ink is white, grays are left to the edges.
    levels = np.rint(np.clip(small * 1.25 - 0.1, 0, 1) * (LEVELS - 1))
    return np.asarray(levels * (255 // (LEVELS - 1)), dtype=np.uint8)


def clouds(rng: np.random.Generator, side: int, cells: int) -> Large:
    """Smooth noise (side, side) of about unit variance, its features side / cells wide."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def bend(outline: Large, rng: np.random.Generator) -> Large:
    """Slant, turn, stretch and bend the whole character, as another hand would write it."""
    turn, slant = rng.normal(0, 0.06), rng.normal(0, 0.12)
    span = np.exp(rng.normal(0, 0.1))
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[span, slant], [0, 1 / span]])
    rows, columns = np.mgrid[:PAGE, :PAGE] - PAGE / 2
    # A slow wave moves the parts of the character, a quicker and smaller one makes the strokes tremble.
    waves = [6 * clouds(rng, PAGE, 5) + 1.6 * clouds(rng, PAGE, 14) for _ in "xy"]
    x = matrix[0, 0] * columns + matrix[0, 1] * rows + waves[0] + PAGE / 2
    y = matrix[1, 0] * columns + matrix[1, 1] * rows + waves[1] + PAGE / 2
    return np.asarray(cv2.remap(outline, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR))


def weigh(shape: Large, rng: np.random.Generator) -> Large:
    """Make the strokes thicker or thinner, towards the share of ink that real images have, and their edges uneven."""
    inside = (shape > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    height, width = (np.ptp(np.flatnonzero(inside.any(axis=axis))) + 1 for axis in (1, 0))
    # Kuzushiji-Kanji has means of 0.12 (人) to 0.24 (馬), with a deviation of 0.05 within a class. Aim above that:
    # the bounds on growth keep the simple characters below it, and dry ink the others.
    share = np.clip(rng.normal(0.25, 0.055), 0.12, 0.36) * max(height, width) ** 2 / PAGE**2
    growth = np.clip(-np.quantile(depth, 1 - share), -2.5, 4.8)
    pressure = 1.2 * clouds(rng, PAGE, 10) + 0.5 * clouds(rng, PAGE, 64)
    return np.asarray(np.clip(depth + growth + pressure + 0.5, 0, 1), dtype=np.float32)


def frame(ink: Large, rng: np.random.Generator) -> Large:
    """Cut the character out and fill the box (B, B) with it, its proportions kept, as CODH did."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return fit(cut, BOX, rng.uniform(0.88, 0.995) * BOX, (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)))


def fit(picture: Large, side: int, longer: float, place: tuple[float, float]) -> Large:
    """Scale a picture to a longer side, on an empty square; `place`: which share of the room is left and above."""
    height, width = picture.shape
    scale = longer / max(height, width)
    x, y = (side - width * scale) * place[0], (side - height * scale) * place[1]
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    return np.asarray(cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR))


def dry(ink: Large, rng: np.random.Generator) -> Large:
    """Let the brush run dry here and there, and the ink be pale."""
    dryness = rng.beta(1, 6)
    grain = clouds(rng, BOX, 90) + 0.8 * streaks(rng)
    cover = 3.2 - 4 * dryness + (0.5 + dryness) * clouds(rng, BOX, 5) + grain
    paleness = rng.beta(0.5, 6) * (1 + 0.6 * clouds(rng, BOX, 6))
    return np.asarray(ink * np.clip(cover, 0, 1) * np.clip(1 - paleness, 0.45, 1), dtype=np.float32)


def streaks(rng: np.random.Generator) -> Large:
    """Noise (B, B) drawn out in one direction, as by the hairs of a brush."""
    turn = cv2.getRotationMatrix2D((BOX / 2, BOX / 2), rng.uniform(0, 180), 1.5)
    hairs = cv2.resize(rng.standard_normal((70, 7), dtype=np.float32), (BOX, BOX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.warpAffine(hairs, turn, (BOX, BOX)))


def soil(ink: Large, rng: np.random.Generator) -> Large:
    """Add what the paper brings along: specks, stains, and the edge of a neighbouring character."""
    page = ink.copy()
    for _ in range(rng.poisson(2)):
        x, y = rng.integers(0, BOX, 2).tolist()
        cv2.circle(page, (x, y), int(rng.integers(1, 6)), rng.uniform(0.3, 1), -1, cv2.LINE_AA)
    if rng.random() < 0.08:
        page = np.maximum(page, np.clip(0.25 * clouds(rng, BOX, 5) + 0.12 * clouds(rng, BOX, 80) - 0.2, 0, 0.5))
    if rng.random() < 0.15:
        neighbour(page, rng)
    return page


def neighbour(page: Large, rng: np.random.Generator) -> None:
    """Let a stroke of the character above or below reach into the box."""
    edge = int(rng.choice([0, BOX]))
    start = int(rng.integers(0, BOX))
    end = start + int(rng.integers(-70, 70))
    cv2.line(page, (start, edge), (end, edge + int(rng.integers(-8, 8))), 1.0, int(rng.integers(8, 22)), cv2.LINE_AA)
