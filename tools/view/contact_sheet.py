"""Pictures of data: contact sheets, and a plot of the images of each class."""

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kkanji.classes import ClassMap
from kkanji.glyphs import render_glyph
from shards import IMAGE_SIZE

COLUMNS = 20
GLYPH = 24  # pixels of the typeset character beside a caption
CAPTION_POINTS = 10
MARGIN = 2
TILE_WIDTH, TILE_HEIGHT = IMAGE_SIZE + 2 * MARGIN, IMAGE_SIZE + GLYPH + 2 * MARGIN
BACKGROUND, TEXT = 48, 255
PLOT_INCHES, PLOT_DPI = (9, 5), 120


class Choice(NamedTuple):
    """Images to show, [n, 64, 64], their class numbers, [n], and, where wanted, those that a model predicts, [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]
    predicted: NDArray[np.integer[Any]] | None = None


def draw_sheet(choice: Choice, classes: ClassMap) -> bytes:
    """A PNG with a grid of images, each above its code point and its character, or above two: true and predicted."""
    columns = min(COLUMNS, len(choice.labels))
    rows = -(-len(choice.labels) // columns)
    sheet = Image.new("L", (columns * TILE_WIDTH, rows * TILE_HEIGHT), BACKGROUND)
    for position, (pixels, label) in enumerate(zip(choice.images, choice.labels, strict=True)):
        row, column = divmod(position, columns)
        left, top = column * TILE_WIDTH + MARGIN, row * TILE_HEIGHT + MARGIN
        sheet.paste(Image.fromarray(pixels), (left, top))
        if choice.predicted is None:
            _caption(sheet, left, top, f"{classes.code_points[label]:04X}", classes.characters[label])
        else:
            _compare(sheet, left, top, classes.characters[label], classes.characters[choice.predicted[position]])
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def draw_balance(counts: dict[str, NDArray[np.int64]], title: str) -> bytes:
    """A PNG that plots the number of images of each class, most frequent first. counts: [classes] for each line."""
    figure = Figure(figsize=PLOT_INCHES, dpi=PLOT_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, numbers in counts.items():
        found = np.sort(numbers[numbers > 0])[::-1]
        axes.plot(
            np.arange(1, len(found) + 1), found, label=f"{name}: {found.sum():,} images of {len(found):,} classes"
        )
    axes.set(xscale="log", yscale="log", xlabel="classes, the most frequent first", ylabel="images of a class")
    axes.set_title(title)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _caption(sheet: Image.Image, left: int, top: int, text: str, character: str) -> None:
    _glyph(sheet, left + IMAGE_SIZE - GLYPH, top, character)
    _text(sheet, left, top, text)


def _compare(sheet: Image.Image, left: int, top: int, true: str, predicted: str) -> None:
    _glyph(sheet, left, top, true)
    _text(sheet, left + GLYPH + 4, top, "->")
    _glyph(sheet, left + IMAGE_SIZE - GLYPH, top, predicted)


def _glyph(sheet: Image.Image, left: int, top: int, character: str) -> None:
    """A typeset character below the tile's image."""
    sheet.paste(Image.fromarray(render_glyph(character, GLYPH)), (left, top + IMAGE_SIZE))


def _text(sheet: Image.Image, left: int, top: int, text: str) -> None:
    font, middle = ImageFont.load_default(CAPTION_POINTS), top + IMAGE_SIZE + GLYPH / 2
    ImageDraw.Draw(sheet).text((left, middle), text, fill=TEXT, font=font, anchor="lm")
