"""Contact sheets: what a shard set or a folder of originals looks like."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kkanji.classes import ClassMap, parse_label, read_class_map
from kkanji.glyphs import render_glyph
from shards import IMAGE_SIZE, InputError, ShardSet, SplitReader, write_file
from shards.manifest import MANIFEST_NAME
from shards.permutation import mix, permute
from tools.originals import FACTS_NAME, Originals, check_seed, read_originals, read_split

COLUMNS = 20
GLYPH = 24  # pixels of the typeset character beside a caption
CAPTION_POINTS = 10
MARGIN = 2
TILE_WIDTH, TILE_HEIGHT = IMAGE_SIZE + 2 * MARGIN, IMAGE_SIZE + GLYPH + 2 * MARGIN
BACKGROUND, TEXT = 48, 255


class Part(NamedTuple):
    """Images that a sheet may show, such as those of one split."""

    labels: NDArray[np.int32]
    """[n], class numbers."""
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    """The images of these numbers, 0..n-1."""


class Choice(NamedTuple):
    """Images to show: [n, 64, 64] and their class numbers [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]


def show(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    output: Path = Path("sheet.png"),
    split: str | None = None,
    label: str | None = None,
    count: int = 200,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Draw a contact sheet of a shard set or of originals, each image with its character typeset beneath.

    Example: python -m tools show shards --split val --label U+4E00 --output sheet.png

    Args:
        folder: shard set, or originals made by `python -m tools combine`
        output: PNG file to write
        split: train, val or test; all of them if not given
        label: one class only, as in U+4E00
        count: images at most, chosen at random
        seed: another seed chooses others; 0 or more
        overwrite: replace OUTPUT if it exists
    """
    check_seed(seed)
    if count < 1:
        raise InputError(f"--count {count}: expected 1 or more")
    if output.exists() and not overwrite:
        raise InputError(f"{output}: already exists; choose another --output or --overwrite")
    parts = _parts(folder, split)
    classes = read_class_map(folder)
    choice = choose(parts, None if label is None else _class_number(label, classes, folder), count, seed)
    if not len(choice.labels):
        raise InputError(f"{folder}: no image of {label} in {split or 'any split'}; show another class or split")
    write_file(output, _png(draw_sheet(choice, classes)))
    print(f"{output}: {len(choice.labels)} images")


def choose(parts: list[Part], label: int | None, count: int, seed: int) -> Choice:
    """At most `count` of the images, or of those of one class, at random, in the order of their classes."""
    labels = np.concatenate([part.labels for part in parts])
    candidates = np.arange(len(labels)) if label is None else np.flatnonzero(labels == label)
    places = np.arange(min(count, len(candidates)), dtype=np.uint64)
    chosen = np.sort(candidates[permute(places, len(candidates), key=mix(seed)).astype(np.int64)])
    images, start = [], 0
    for part in parts:
        stop = start + len(part.labels)
        images.append(part.read(chosen[(chosen >= start) & (chosen < stop)] - start))
        start = stop
    order = np.argsort(labels[chosen], kind="stable")
    return Choice(np.concatenate(images)[order], labels[chosen][order])


def draw_sheet(choice: Choice, classes: ClassMap) -> Image.Image:
    """A grid of images, each above its code point and its typeset character."""
    columns = min(COLUMNS, len(choice.labels))
    rows = -(-len(choice.labels) // columns)
    sheet = Image.new("L", (columns * TILE_WIDTH, rows * TILE_HEIGHT), BACKGROUND)
    for position, (pixels, label) in enumerate(zip(choice.images, choice.labels, strict=True)):
        row, column = divmod(position, columns)
        _draw_tile(sheet, column * TILE_WIDTH + MARGIN, row * TILE_HEIGHT + MARGIN, pixels, classes.code_points[label])
    return sheet


def _parts(folder: Path, split: str | None) -> list[Part]:
    if (folder / MANIFEST_NAME).is_file():
        return _shard_parts(ShardSet(folder), split)
    if (folder / FACTS_NAME).is_file():
        return [_original_part(read_originals(folder), split)]
    raise InputError(f"{folder}: neither {MANIFEST_NAME} nor {FACTS_NAME} in it; expected a shard set or originals")


def _shard_parts(shards: ShardSet, split: str | None) -> list[Part]:
    return [_shard_part(shards.split(name)) for name in ([split] if split else shards.manifest.splits)]


def _shard_part(reader: SplitReader) -> Part:
    return Part(reader.labels(), lambda numbers: reader.gather(numbers).images)


def _original_part(combined: Originals, split: str | None) -> Part:
    rows = read_split(combined).rows(split) if split else np.arange(len(combined.ids))
    return Part(combined.labels[rows], lambda numbers: combined.images[rows[numbers]])


def _class_number(label: str, classes: ClassMap, folder: Path) -> int:
    number = classes.ids.get(parse_label(label, "--label"))
    if number is None:
        raise InputError(f"--label {label}: no class of {folder}; its {len(classes)} classes are in index.json")
    return number


def _draw_tile(sheet: Image.Image, left: int, top: int, pixels: NDArray[np.uint8], code_point: int) -> None:
    sheet.paste(Image.fromarray(pixels), (left, top))
    below = top + IMAGE_SIZE
    sheet.paste(Image.fromarray(render_glyph(chr(code_point), GLYPH)), (left + IMAGE_SIZE - GLYPH, below))
    font = ImageFont.load_default(CAPTION_POINTS)
    ImageDraw.Draw(sheet).text((left, below + GLYPH / 2), f"{code_point:04X}", fill=TEXT, font=font, anchor="lm")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
