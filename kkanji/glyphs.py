"""Characters rendered in a modern font, to show beside handwriting which character is meant.

The font comes from the PyPI package `noto-cjk-sans-jp-regular`, so that kanji look the same on machines without a CJK
font. Classes, runs and reports do not belong here.
"""

import io
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shards.errors import InputError

FONT_PACKAGE = "noto_cjk_sans_jp_regular"
FONT_FILE = "NotoSansCJKjp-Regular.otf"
FONT_FAMILY = "Noto Sans CJK JP"
EM_FRACTION = 0.88  # side of the em box by that of the square: about as much as handwriting takes of its image
BASELINE_FRACTION = 0.88  # part of the em box above the baseline: the font's ideographic box has 880 above, 120 below
SPELLED_FRACTION = 0.9  # width of a code point that is written out, by that of the square
MEASURING_SIZE = 100  # font size to measure text at, in pixels


@lru_cache(maxsize=1)
def font_path() -> Path:
    """Path of the CJK font. Raises InputError if its package is not installed."""
    try:
        path = Path(str(files(FONT_PACKAGE).joinpath(FONT_FILE)))
    except ModuleNotFoundError as error:
        raise InputError(_no_font(f"no Python package {FONT_PACKAGE}")) from error
    if not path.is_file():
        raise InputError(_no_font(f"{path}: no such file"))
    return path


def code_point(character: str) -> str:
    """The character's label, such as `U+6DF1`. The labels of several characters are joined by spaces."""
    return " ".join(f"U+{ord(part):04X}" for part in character)


def has_glyph(character: str) -> bool:
    """Whether the font has a glyph for each character of the text."""
    return bool(character) and all(ord(part) in _covered() for part in character)


def font_subset(text: Iterable[str]) -> bytes:
    """A WOFF font with the glyphs of these characters only: some 150 bytes each, small enough to embed in a page."""
    from fontTools import subset  # with the font library below, half a second that predicting does not need

    # Horizontal text in one style needs no features, no vertical metrics, and no names but those that WOFF requires.
    options = subset.Options(layout_features=[], hinting=False, name_IDs=[], notdef_outline=True)
    options.drop_tables += ["BASE", "DSIG", "GPOS", "GSUB", "VORG", "vhea", "vmtx"]
    options.flavor = "woff"
    buffer = io.BytesIO()
    with subset.load_font(str(font_path()), options) as whole:
        subsetter = subset.Subsetter(options)
        subsetter.populate(text="".join(text))
        subsetter.subset(whole)
        subset.save_font(whole, buffer, options)
    return buffer.getvalue()


@lru_cache(maxsize=8192)
def render_glyph(character: str, size: int) -> NDArray[np.uint8]:
    """Render a character white on black, uint8 [size, size], read-only. A missing glyph is replaced by its label."""
    if not character or size < 1:
        raise ValueError(f"cannot render {character!r} in {size} pixels: expected a character and a positive size")
    image = Image.new("L", (size, size))
    if len(character) == 1 and has_glyph(character):
        _render_in_em_box(image, character)
    else:
        _render_fitted(image, character if has_glyph(character) else code_point(character))
    glyph = np.asarray(image).copy()
    glyph.setflags(write=False)  # all callers share the cached array
    return glyph


def _render_in_em_box(image: Image.Image, character: str) -> None:
    """Render with the em box centred, not the ink: so 一 stays in the middle of the square and 、 in its corner."""
    size = image.width
    em = EM_FRACTION * size
    baseline = (size - em) / 2 + BASELINE_FRACTION * em
    ImageDraw.Draw(image).text((size / 2, baseline), character, fill=255, font=font(max(1, round(em))), anchor="ms")


def _render_fitted(image: Image.Image, text: str) -> None:
    """Render text of any length in the middle, in the font size that makes it fit the width."""
    size = image.width
    unit_width = font(MEASURING_SIZE).getlength(text) / MEASURING_SIZE
    points = max(1, int(SPELLED_FRACTION * size / unit_width))
    ImageDraw.Draw(image).text((size / 2, size / 2), text, fill=255, font=font(points), anchor="mm")


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels, cached."""
    # Basic layout: single characters need no shaping, and images are the same with and without libraqm installed.
    return ImageFont.truetype(str(font_path()), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def _covered() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_path())).get_charmap())


def _no_font(found: str) -> str:
    return f"{found}; the reports need its CJK font: pip install noto-cjk-sans-jp-regular"
