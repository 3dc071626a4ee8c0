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

from shards.errors import InputError, printable

PAGE = 320  # side P of the page for an outline, in large pixels: room for the outline to move
OUTLINE = 224  # longer side of the outline on that page, in large pixels
BOX = 256  # side B of the box that frames the character, in large pixels, reduced to SIDE at the end
SIDE = 64  # side of a finished image in pixels, as in Kuzushiji-Kanji
LICENCE_NAMES = (13, 14)  # the OpenType name table's description of the licence, and its address
MOST_LICENCE = 120
LEVELS = 16  # gray levels of a finished image: twice as many look the same and make the embedded sample too large
Large = NDArray[np.float32]
Gray = NDArray[np.uint8]


def generator(seed: int, character: str, number: int) -> np.random.Generator:
    """Random numbers of one image. They depend on no other image, so characters can be added and removed."""
    key = np.array([seed, ord(character) << 32 | number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class Face:
    """One brush font."""

    def __init__(self, path: Path) -> None:
        # Two of the fonts have a creation date before 1970, about which fontTools warns once per table.
        logging.getLogger("fontTools").setLevel(logging.ERROR)
        self.name = path.name
        try:
            # Through memory, since both libraries would keep the file open.
            content = path.read_bytes()
            self.sha256 = hashlib.sha256(content).hexdigest()
            tables = TTFont(io.BytesIO(content), lazy=True)
            self.licence = _licence(tables)
            self._names = tables.getBestCmap()
            self._glyphs = tables.getGlyphSet()
            # The basic layout, since the images must not depend on whether the optional Raqm library is there.
            self._drawing = ImageFont.truetype(io.BytesIO(content), BOX, layout_engine=ImageFont.Layout.BASIC)
        except (TTLibError, OSError) as error:
            found = str(error)[:100]
            raise InputError(f"{path} is not a readable font ({found}): install its Debian package again") from error

    def has_glyph(self, character: str) -> bool:
        """Whether the font has an outline. These fonts list thousands of characters with an empty glyph."""
        name = self._names.get(ord(character))
        if name is None:
            return False
        pen = BoundsPen(self._glyphs)
        self._glyphs[name].draw(pen)
        return pen.bounds is not None

    def outline(self, character: str) -> Large:
        """The character as (P, P) in 0..1, in the middle of the page, its longer side OUTLINE."""
        left, top, right, bottom = (int(edge) for edge in self._drawing.getbbox(character))
        picture = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(picture).text((-left, -top), character, fill=255, font=self._drawing)
        return fit(np.asarray(picture, dtype=np.float32) / np.float32(255), PAGE, OUTLINE, (0.5, 0.5))


def _licence(tables: TTFont) -> str:
    """What the font says of its licence, in short; it need not say anything."""
    found = next(filter(None, map(tables["name"].getDebugName, LICENCE_NAMES)), "") if "name" in tables else ""
    return printable(" ".join(found.split()))[:MOST_LICENCE] or "license not stated"


def render_character(outline: Large, rng: np.random.Generator) -> Gray:
    """One image (SIDE, SIDE) of an outline (P, P), with random shape, weight, place, ink and paper."""
    ink = weigh(bend(outline, rng), rng)
    ink = dry(frame(ink, rng), rng)
    page = soil(ink, rng)
    small = cv2.resize(page, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (5, 5), rng.uniform(0.1, 0.55))
    # As in softly thresholded scans, paper is black and ink is white, with grays only at the edges.
    levels = np.rint(np.clip(small * 1.25 - 0.1, 0, 1) * (LEVELS - 1))
    return np.asarray(levels * (255 // (LEVELS - 1)), dtype=np.uint8)


def clouds(rng: np.random.Generator, side: int, cells: int) -> Large:
    """Smooth noise (side, side) of about unit variance, with features side / cells wide."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def bend(outline: Large, rng: np.random.Generator) -> Large:
    """Slant, rotate, stretch and bend the whole character, as another hand would write it."""
    turn, slant = rng.normal(0, 0.06), rng.normal(0, 0.12)
    span = np.exp(rng.normal(0, 0.1))
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[span, slant], [0, 1 / span]])
    rows, columns = np.mgrid[:PAGE, :PAGE] - PAGE / 2
    # A slow wave moves parts of the character; a faster, smaller one makes the strokes tremble.
    waves = [6 * clouds(rng, PAGE, 5) + 1.6 * clouds(rng, PAGE, 14) for _ in "xy"]
    x = matrix[0, 0] * columns + matrix[0, 1] * rows + waves[0] + PAGE / 2
    y = matrix[1, 0] * columns + matrix[1, 1] * rows + waves[1] + PAGE / 2
    return np.asarray(cv2.remap(outline, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR))


def weigh(shape: Large, rng: np.random.Generator) -> Large:
    """Make strokes thicker or thinner, towards the ink coverage of real images, and their edges uneven."""
    inside = (shape > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    height, width = (np.ptp(np.flatnonzero(inside.any(axis=axis))) + 1 for axis in (1, 0))
    # Kuzushiji-Kanji has mean pixels of 0.12 (人) to 0.24 (馬), with a deviation of 0.05 within a class. Aim higher:
    # the bounds on growth keep simple characters below the target, and dry ink the others.
    coverage = np.clip(rng.normal(0.25, 0.055), 0.12, 0.36) * max(height, width) ** 2 / PAGE**2
    growth = np.clip(-np.quantile(depth, 1 - coverage), -2.5, 4.8)
    pressure = 1.2 * clouds(rng, PAGE, 10) + 0.5 * clouds(rng, PAGE, 64)
    return np.asarray(np.clip(depth + growth + pressure + 0.5, 0, 1), dtype=np.float32)


def frame(ink: Large, rng: np.random.Generator) -> Large:
    """Crop the character and fit it into the box (B, B), keeping its proportions, as CODH did."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return fit(cut, BOX, rng.uniform(0.88, 0.995) * BOX, (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)))


def fit(picture: Large, side: int, longer: float, place: tuple[float, float]) -> Large:
    """Scale a picture to this longer side, on an empty square. place: fractions of the room left of and above it."""
    height, width = picture.shape
    scale = longer / max(height, width)
    x, y = (side - width * scale) * place[0], (side - height * scale) * place[1]
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    return np.asarray(cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR))


def dry(ink: Large, rng: np.random.Generator) -> Large:
    """Let the brush run dry in places, and the ink fade."""
    dryness = rng.beta(1, 6)
    grain = clouds(rng, BOX, 90) + 0.8 * streaks(rng)
    cover = 3.2 - 4 * dryness + (0.5 + dryness) * clouds(rng, BOX, 5) + grain
    paleness = rng.beta(0.5, 6) * (1 + 0.6 * clouds(rng, BOX, 6))
    return np.asarray(ink * np.clip(cover, 0, 1) * np.clip(1 - paleness, 0.45, 1), dtype=np.float32)


def streaks(rng: np.random.Generator) -> Large:
    """Noise (B, B) stretched in one direction, as by the hairs of a brush."""
    turn = cv2.getRotationMatrix2D((BOX / 2, BOX / 2), rng.uniform(0, 180), 1.5)
    hairs = cv2.resize(rng.standard_normal((70, 7), dtype=np.float32), (BOX, BOX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.warpAffine(hairs, turn, (BOX, BOX)))


def soil(ink: Large, rng: np.random.Generator) -> Large:
    """Add specks, stains, and the edge of a neighbouring character."""
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
    """Let a stroke of the character above or below enter the box."""
    edge = int(rng.choice([0, BOX]))
    start = int(rng.integers(0, BOX))
    end = start + int(rng.integers(-70, 70))
    cv2.line(page, (start, edge), (end, edge + int(rng.integers(-8, 8))), 1.0, int(rng.integers(8, 22)), cv2.LINE_AA)
