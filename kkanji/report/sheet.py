"""The confusions as one PNG sheet, for print and slides: ink on paper, four cards in a row."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from kkanji.glyphs import code_point, font, render_glyph
from kkanji.report.cards import Card
from kkanji.report.style import LIGHT
from kkanji.report.text import percent, quantity

COLUMNS = 4
CARD_WIDTH, CARD_HEIGHT = 432, 178
GLYPH_SIZE = 76
MARGIN = 14
TEXT_SIZE, LINE_HEIGHT = 15, 21
COLOURS = 64  # of the palette that the sheet is stored with: a third of the bytes, no difference to be seen


def sheet_png(cards: Sequence[Card]) -> bytes:
    """The sheet as a file."""
    buffer = io.BytesIO()
    draw_sheet(cards).quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_sheet(cards: Sequence[Card]) -> Image.Image:
    """Draw the cards in reading order."""
    rows = -(-len(cards) // COLUMNS)
    columns = min(COLUMNS, len(cards))
    sheet = Image.new("RGB", (columns * CARD_WIDTH + MARGIN, rows * CARD_HEIGHT + MARGIN), LIGHT.paper)
    for number, card in enumerate(cards):
        row, column = divmod(number, COLUMNS)
        _draw_card(sheet, card, column * CARD_WIDTH + MARGIN, row * CARD_HEIGHT + MARGIN)
    return sheet


def _draw_card(sheet: Image.Image, card: Card, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.line((left, top, left + CARD_WIDTH - MARGIN, top), fill=LIGHT.grid)
    top += 8
    arrow_left, arrow_width = left + GLYPH_SIZE, 26
    predicted_left = arrow_left + arrow_width
    _paste_ink(sheet, render_glyph(card.true, GLYPH_SIZE), (left, top), LIGHT.ink)
    middle = (arrow_left + arrow_width // 2, top + GLYPH_SIZE // 2)
    draw.text(middle, "→", fill=LIGHT.muted, font=font(22), anchor="mm")
    _paste_ink(sheet, render_glyph(card.predicted, GLYPH_SIZE), (predicted_left, top), LIGHT.vermilion)
    image_left = predicted_left + GLYPH_SIZE + MARGIN
    for number, image in enumerate(card.images):
        _paste_ink(sheet, image, (image_left + number * (image.shape[1] + 8), top + 6), LIGHT.ink)
    for number, line in enumerate(_lines(card)):
        height = top + GLYPH_SIZE + 6 + number * LINE_HEIGHT
        draw.text((left, height), line, fill=LIGHT.muted if number else LIGHT.ink, font=font(TEXT_SIZE))


def _paste_ink(sheet: Image.Image, strokes: NDArray[np.uint8], corner: tuple[int, int], colour: str) -> None:
    """Draw white-on-black strokes as ink of a colour on the sheet's paper."""
    sheet.paste(ImageColor.getrgb(colour), corner, Image.fromarray(strokes))


def _lines(card: Card) -> tuple[str, str, str]:
    confusion = card.confusion
    return (
        f"{card.rank}.  {code_point(card.true)} predicted as {code_point(card.predicted)}",
        f"{quantity(confusion.count)} of {quantity(confusion.true_images)} images ({percent(card.fraction)}), "
        f"mean probability {percent(confusion.probability, 0)}",
        f"training images: {quantity(card.true_training)} and {quantity(card.predicted_training)}",
    )
