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
    """Images to show, [n, 64, 64], and their class numbers, [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]


def draw_sheet(choice: Choice, classes: ClassMap) -> bytes:
    """A PNG with a grid of images, each above its code point and its typeset character."""
    columns = min(COLUMNS, len(choice.labels))
    rows = -(-len(choice.labels) // columns)
    sheet = Image.new("L", (columns * TILE_WIDTH, rows * TILE_HEIGHT), BACKGROUND)
    for position, (pixels, label) in enumerate(zip(choice.images, choice.labels, strict=True)):
        row, column = divmod(position, columns)
        _draw_tile(sheet, column * TILE_WIDTH + MARGIN, row * TILE_HEIGHT + MARGIN, pixels, classes.code_points[label])
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


def _draw_tile(sheet: Image.Image, left: int, top: int, pixels: NDArray[np.uint8], code_point: int) -> None:
    sheet.paste(Image.fromarray(pixels), (left, top))
    below = top + IMAGE_SIZE
    sheet.paste(Image.fromarray(render_glyph(chr(code_point), GLYPH)), (left + IMAGE_SIZE - GLYPH, below))
    font = ImageFont.load_default(CAPTION_POINTS)
    ImageDraw.Draw(sheet).text((left, below + GLYPH / 2), f"{code_point:04X}", fill=TEXT, font=font, anchor="lm")
