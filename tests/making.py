"""A small shard set made by the project's own tools, as a user makes one, and fonts to draw with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from shards import OutputFolder, Samples, ShardSet, Split, shard_name, write_manifest, write_shard
from shards.format.manifest import Compression
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.split import split

SAMPLE = Path(__file__).parents[1] / "sample" / "kkanji2"


def make_set(folder: Path, name: str) -> Path:
    """Pack the images of folder/kkanji2 into folder/shards, a quarter of them for validation."""
    combine((folder / "kkanji2",), output=folder / "originals", name=name, licence="drawn")
    split(folder / "originals", val=0.25)
    pack(folder / "originals", output=folder / "shards", block_size=125)
    return folder / "shards"


def cut_up(data: Path, output: Path, in_a_shard: int, compression: Compression = "none") -> Path:
    """The same samples, in shards of `in_a_shard` images."""
    whole = ShardSet(data)
    with OutputFolder(output) as folder:
        splits = {name: _cut_split(whole, name, folder, in_a_shard, compression) for name in whole.manifest.splits}
        manifest = replace(whole.manifest, splits=splits, compression=compression)
        write_manifest(folder, manifest, whole.read("index.json").decode())
    return output


def _cut_split(data: ShardSet, name: str, folder: Path, in_a_shard: int, compression: Compression) -> Split:
    reader = data.split(name)
    numbers = np.split(np.arange(reader.samples), range(in_a_shard, reader.samples, in_a_shard))
    shards = [
        write_shard(folder / shard_name(name, number), _blocks(reader.gather(rows)), compression=compression)
        for number, rows in enumerate(numbers)
    ]
    return replace(data.manifest.splits[name], shards=tuple(shards))


def _blocks(samples: Samples) -> Iterator[Samples]:
    for first in range(0, len(samples.labels), 4):
        images, labels, sources = (column[first : first + 4] for column in samples)
        yield Samples(images, labels, sources)  # type: ignore[arg-type]


def make_font(path: Path, outlined: str, empty: str = "") -> Path:
    """A font: a rectangle of its own height for each character of `outlined`, no outline for those of `empty`."""
    names = {ord(character): f"glyph{ord(character):04X}" for character in outlined + empty}
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for number, (code_point, name) in enumerate(names.items()):
        pen = TTGlyphPen(None)
        if chr(code_point) in outlined:
            pen.moveTo((100, 0))
            for corner in ((100, 400 + 50 * number), (700, 400 + 50 * number), (700, 0)):
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path
