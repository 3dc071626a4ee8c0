"""Renders the embedded training sample from public-domain brush fonts, in CODH's layout.

The sample stands in for the real data where that is not at hand: no pixel comes from a historical page.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from shards import InputError, OutputFolder, write_file
from tools.brush import (
    Face,
    Gray,
    Large,
    generator,
    render_character,
)

FONT_FILES = {
    "KouzanBrushFontSousyo.ttf": "fonts-kouzan-mouhitsu",
    "kouzan-mouhitsu-gyosho.ttf": "fonts-kouzan-mouhitsu",
    "kouzan-mouhitsu.ttf": "fonts-kouzan-mouhitsu",
    "aoyagi-soseki.ttf": "fonts-aoyagi-soseki",
    "AoyagiKouzanT.ttf": "fonts-aoyagi-kouzan-t",
}
"""File names of the fonts, cursive first, and the Debian package of each. Their order assigns fonts to images."""

CHARACTERS = (
    "一三四五六九十百人大小中上下右内外前後日月年時今春夏秋冬夜山川水火木金土石雨雪風雲海江野"
    "天神心身手女男子母父花草松竹梅桑茶米豆酒鳥馬魚蚕東西南北京都州門家道"
    "言語書文字名歌聞見思知色味食衣紙立行来出居長武世御候"
)
"""Frequent in books of the Edo period and easy to tell apart: of similar pairs (土 and 士, 人 and 入) at most one."""


def sample(
    *,
    output: Path = Path("sample"),
    fonts: Path = Path("/usr/share/fonts/truetype"),
    per_class: int = 24,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Render a training sample in CODH's layout from public-domain brush fonts.

    Example: kkanji sample --output sample

    Args:
        output: Folder for the sample, with its images in OUTPUT/kkanji2/U+XXXX/<hash of the pixels>.png.
        fonts: Folder to search, with its subfolders, for the five brush fonts.
        per_class: Images to render for each character.
        seed: Seed of the variations, 0 or more. The same seed and fonts render the same files.
        overwrite: Replace OUTPUT if `sample` made it.
    """
    if per_class < 1 or not 0 <= seed < 2**64:
        raise InputError(
            f"per_class {per_class} and seed {seed}: expected per_class >= 1 and a seed from 0 to 2**64 - 1"
        )
    faces = load_faces(fonts)
    with OutputFolder(output, maker="sample", inputs=(fonts,), overwrite=overwrite) as made:
        for character in tqdm(CHARACTERS, desc="render", unit="class"):
            write_class(made / "kkanji2", character, outlines(faces, character), per_class, seed)
        write_file(made / "README.md", readme(per_class, seed))


def write_class(root: Path, character: str, rendered_by: Sequence[Large], per_class: int, seed: int) -> None:
    """Write `per_class` images of one character. The fonts take turns."""
    folder = root / f"U+{ord(character):04X}"
    folder.mkdir(parents=True)
    for number in range(per_class):
        pixels = render_character(rendered_by[number % len(rendered_by)], generator(seed, character, number))
        (folder / f"{pixel_hash(pixels)}.png").write_bytes(encode(pixels))


def pixel_hash(pixels: Gray) -> str:
    """File name of an image: unlike a hash of the file, it does not change with the PNG encoder."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def encode(pixels: Gray) -> bytes:
    """PNG of an 8-bit gray image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def readme(per_class: int, seed: int) -> str:
    """Text of the README beside the images."""
    fonts = "\n".join(f"- `{name}` (Debian package `{package}`)" for name, package in FONT_FILES.items())
    return f"""# Embedded sample

{len(CHARACTERS)} characters, {per_class} images each, 64x64 pixels, white ink on black,
in the layout of CODH's Kuzushiji-Kanji.

These images are **rendered, not historical**: no pixel comes from a book. With them the project trains and tests
itself without any download. Accuracy on them says nothing about real pages.

They are rendered from brush fonts of Aoyagi Kouzan and Aoyagi Soseki, which their makers gave to the public domain:

{fonts}

The command that made them; the same fonts, library versions and kind of processor give the same files, byte for byte:

    kkanji sample --output sample --per-class {per_class} --seed {seed}
"""


def load_faces(folder: Path) -> list[Face]:
    """The fonts of FONT_FILES in its order. All are needed, so that the sample is the same everywhere."""
    found = {path.name: path for path in sorted(folder.rglob("*.ttf"))}
    missing = [name for name in FONT_FILES if name not in found]
    if missing:
        packages = " ".join(sorted({FONT_FILES[name] for name in missing}))
        raise InputError(
            f"no {', '.join(missing)} in {folder} or below: "
            f"install the Debian packages {packages}, or give --fonts a folder that holds the files"
        )
    return [Face(found[name]) for name in FONT_FILES]


def outlines(faces: Sequence[Face], character: str) -> list[Large]:
    """The outline of a character in each font that has it."""
    rendered = [face.outline(character) for face in faces if face.has_glyph(character)]
    if not rendered:
        tried = ", ".join(face.name for face in faces)
        raise InputError(f"no font has {character} (U+{ord(character):04X}), tried {tried}: remove it from CHARACTERS")
    return rendered
