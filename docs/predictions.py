"""Draws docs/predictions.png: characters of the rendered sample, and what the model in models/kuzushiji-kanji predicts.

Draw it again when the model or the sample changes: `python docs/predictions.py`. The predictions are also in the PNG's
text, where a test compares them with the model's.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from kkanji.glyphs import font
from kkanji.inference.predict import Predictor, predict_files

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample" / "kkanji2"
MODEL = ROOT / "models" / "kuzushiji-kanji"
PICTURE = ROOT / "docs" / "predictions.png"
EVERY = 4  # characters; nothing is chosen by hand, so the picture shows mistakes as often as they occur
COLUMNS = 13
IMAGE, MARGIN, CAPTION = 128, 8, 56  # pixels; an image of 64 pixels is shown at twice its size
TILE_WIDTH, TILE_HEIGHT = IMAGE + 2 * MARGIN, IMAGE + CAPTION + 2 * MARGIN
GLYPH_POINTS, TEXT_POINTS, LINE_HEIGHT = 40, 20, 26
PAPER, INK, WRONG = "white", "#1a1a1a", "#c0182b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One image of the picture."""

    file: str
    """Relative to the sample."""
    label: str
    predicted: str
    probability: float

    @property
    def correct(self) -> bool:
        return self.label == self.predicted


def shown(sample: Path = SAMPLE) -> list[Path]:
    """The first image, by name, of every fourth character."""
    return [min(folder.glob("*.png")) for folder in sorted(sample.iterdir())[::EVERY]]


def predicted(files: Sequence[Path]) -> list[Tile]:
    """What the model predicts for images of the sample."""
    predictor = Predictor(MODEL, torch.device("cpu"))
    return [
        Tile(
            file=str(prediction.file.relative_to(SAMPLE)),
            label=chr(int(prediction.file.parent.name.removeprefix("U+"), 16)),
            predicted=prediction.guesses[0].character,
            probability=round(prediction.guesses[0].probability, 3),
        )
        for prediction in predict_files(predictor, files, top=1)
    ]


def draw(tiles: Sequence[Tile]) -> Image.Image:
    """A grid of the images, each above its prediction; a wrong one is red, with the label beside it."""
    rows = -(-len(tiles) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * TILE_WIDTH, rows * TILE_HEIGHT), PAPER)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, COLUMNS)
        _draw_tile(picture, column * TILE_WIDTH + MARGIN, row * TILE_HEIGHT + MARGIN, tile)
    return picture


def _draw_tile(picture: Image.Image, left: int, top: int, tile: Tile) -> None:
    with Image.open(SAMPLE / tile.file) as image:
        picture.paste(image.convert("RGB").resize((IMAGE, IMAGE), Image.Resampling.BICUBIC), (left, top))
    pen, colour = ImageDraw.Draw(picture), INK if tile.correct else WRONG
    middle = top + IMAGE + CAPTION // 2
    pen.text((left, middle), tile.predicted, fill=colour, font=font(GLYPH_POINTS), anchor="lm")
    lines = [f"{tile.probability:.0%}"] if tile.correct else [f"{tile.probability:.0%}", f"not {tile.label}"]
    for number, line in enumerate(lines):
        height = middle + (number - (len(lines) - 1) / 2) * LINE_HEIGHT
        pen.text((left + IMAGE, height), line, fill=colour, font=font(TEXT_POINTS), anchor="rm")


def main() -> None:
    """Predict the whole sample, draw a part of it, and write both results into the PNG."""
    everything = predicted(sorted(SAMPLE.glob("*/*.png")))
    wanted = {str(file.relative_to(SAMPLE)) for file in shown()}
    tiles = [tile for tile in everything if tile.file in wanted]
    text = PngInfo()
    text.add_text("predictions", json.dumps([asdict(tile) for tile in tiles]))
    text.add_text("correct", f"{sum(tile.correct for tile in everything):,} of {len(everything):,}")
    draw(tiles).quantize(64).save(PICTURE, pnginfo=text, optimize=True)


if __name__ == "__main__":
    main()
