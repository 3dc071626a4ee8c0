"""A small shard set made by the project's own tools, as a user makes one, and fonts to draw with."""

from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from tools.combine import combine
from tools.pack import pack
from tools.split import split

SAMPLE = Path(__file__).parents[1] / "sample" / "kkanji2"


def make_set(folder: Path, name: str) -> Path:
    """Of the images in folder/kkanji2: a quarter for validation, in folder/shards."""
    combine((folder / "kkanji2",), output=folder / "originals", name=name, licence="drawn")
    split(folder / "originals", val=0.25)
    pack(folder / "originals", output=folder / "shards", block_size=125)
    return folder / "shards"


def make_font(path: Path, drawn: str, empty: str = "") -> Path:
    """A font with an oblong for each drawn character, of another height for each, and characters without outline."""
    names = {ord(character): f"glyph{ord(character):04X}" for character in drawn + empty}
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for number, (code_point, name) in enumerate(names.items()):
        pen = TTGlyphPen(None)
        if chr(code_point) in drawn:
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
