"""Typeset characters: the shape a reader would expect, to stand beside the handwriting.

The font is the one the PyPI package `noto-cjk-sans-jp-regular` ships, so that kanji look the same on a machine without
any CJK font. Nothing here knows of classes, runs or reports.
"""

import io
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from fontTools import subset
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shards.errors import InputError

FONT_PACKAGE = "noto_cjk_sans_jp_regular"
FONT_FILE = "NotoSansCJKjp-Regular.otf"
FONT_FAMILY = "Noto Sans CJK JP"
EM_FRACTION = 0.88  # of the square that a character's em box takes: about what the handwriting takes of its image
BASELINE_FRACTION = (
    0.88  # of the em box that lies above the baseline (the font's ideographic box: 880 above, 120 below)
)
SPELLED_FRACTION = 0.9  # of the square's width that a spelled out code point takes
MEASURING_SIZE = 100


@lru_cache(maxsize=1)
def font_path() -> Path:
    """Where the CJK font lies. Raises InputError when its package is not installed."""
    try:
        path = Path(str(files(FONT_PACKAGE).joinpath(FONT_FILE)))
    except ModuleNotFoundError as error:
        raise InputError(_no_font(f"no Python package {FONT_PACKAGE}")) from error
    if not path.is_file():
        raise InputError(_no_font(f"{path}: no such file"))
    return path


def code_point(character: str) -> str:
    """The character's name as the data sets write it, `U+6DF1`; several are joined by a space."""
    return " ".join(f"U+{ord(part):04X}" for part in character)


def has_glyph(character: str) -> bool:
    """Whether the font can draw every part of it."""
    return bool(character) and all(ord(part) in _covered() for part in character)


def font_subset(text: Iterable[str]) -> bytes:
    """A WOFF font with the glyphs of these characters only, some 150 bytes each, small enough to go into a page."""
    # Written across in one style: no features, no vertical metrics, no names beyond what the format demands.
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
    """The character white on black, uint8 [size, size], read-only; its code point as text where the font lacks it."""
    if not character or size < 1:
        raise ValueError(f"cannot draw {character!r} in {size} pixels: expected a character and a positive size")
    image = Image.new("L", (size, size))
    if len(character) == 1 and has_glyph(character):
        _render_in_em_box(image, character)
    else:
        _render_fitted(image, character if has_glyph(character) else code_point(character))
    glyph = np.asarray(image).copy()
    glyph.setflags(write=False)  # the cache hands the same array to everybody
    return glyph


def _render_in_em_box(image: Image.Image, character: str) -> None:
    """Centre the em box, not the ink: 一 belongs in the middle of the square and 、 in its corner."""
    size = image.width
    em = EM_FRACTION * size
    baseline = (size - em) / 2 + BASELINE_FRACTION * em
    ImageDraw.Draw(image).text((size / 2, baseline), character, fill=255, font=font(max(1, round(em))), anchor="ms")


def _render_fitted(image: Image.Image, text: str) -> None:
    size = image.width
    unit_width = font(MEASURING_SIZE).getlength(text) / MEASURING_SIZE
    points = max(1, int(SPELLED_FRACTION * size / unit_width))
    ImageDraw.Draw(image).text((size / 2, size / 2), text, fill=255, font=font(points), anchor="mm")


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels, opened once."""
    # Basic layout: one glyph for one character needs no shaping, and the result is the same without libraqm.
    return ImageFont.truetype(str(font_path()), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def _covered() -> frozenset[int]:
    return frozenset(FT2Font(str(font_path())).get_charmap())


def _no_font(found: str) -> str:
    return f"{found}; the reports need its CJK font: pip install noto-cjk-sans-jp-regular"
