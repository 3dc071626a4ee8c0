"""Originals -> the same with images rendered from brush fonts added to the rare classes, for training only.

Rendered images have the origin `font`. `split` always assigns them to train and divides the others as it would without
them. Which class gets which images depends on the seed and the fonts alone.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from kkanji.classes import label
from kkanji.threads import map_in_order
from shards import IMAGE_SIZE, InputError, OutputFolder
from tools.brush import Face, generator, render_character
from tools.ingest.originals import (
    DROPPED_NAME,
    Origin,
    Originals,
    Row,
    check_images,
    check_seed,
    original_id,
    read_originals,
    read_rows,
    write_originals,
)
from tools.progress import count_images

SOURCE = "font"
SUFFIXES = (".ttf", ".otf")
WRITTEN_ANEW = ("format", "version", "images_sha256", "originals_sha256", "sources")  # facts that the writer adds
Gray = NDArray[np.uint8]


def render(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    fonts: tuple[Path, ...],
    at_most: int = 5,
    per_class: int = 10,
    output: Path = Path("rendered"),
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Add training images rendered from fonts to the classes that have few originals.

    Images vary as those of `kkanji sample` do. Fonts that have a character take turns in the order of their
    file names; with more fonts than images, rename the files so that the best come first. A class that no font has gets
    no image. Run `kkanji split` on the result: rendered images go to train, and the others go where they would
    go without them.

    Example: kkanji render data/originals --fonts /usr/share/fonts/truetype --output rendered

    Args:
        folder: Originals, made by `kkanji combine`.
        fonts: TrueType or OpenType files, or folders to search for them with their subfolders.
        at_most: Classes with this many originals or fewer get rendered images; 0 for classes without any.
        per_class: Images to render for each of these classes.
        output: Folder for the originals with the rendered images, for `split`, `pack`, `balance` and `show`.
        seed: Seed of the variations, 0 or more.
        overwrite: Replace OUTPUT if `render` made it.
    """
    started = time.perf_counter()
    check_seed(seed)
    if at_most < 0 or per_class < 1:
        wrong = f"--at-most {at_most}: expected 0" if at_most < 0 else f"--per-class {per_class}: expected 1"
        raise InputError(f"{wrong} or more")
    combined = read_originals(folder)
    faces = find_faces(fonts)
    rare = rare_classes(combined, at_most)
    check_images(combined)
    with OutputFolder(output, maker="render", inputs=(folder, *fonts), overwrite=overwrite) as made:
        rendered = render_classes(combined, rare, faces, per_class, seed)
        if not rendered:
            raise InputError(f"{folder}: no font has any of the {len(rare)} classes with at most {at_most} originals")
        write_with(made, combined, rendered, faces)
    classes = len({row.label for row in rendered})
    seconds = time.perf_counter() - started
    print(
        f"{output}: {len(rendered):,} images rendered of {classes:,} of the {len(rare):,} rare classes; {seconds:.1f} s"
    )
    for face in faces:
        print(f"  {face.name}: has {sum(face.has_glyph(combined.classes.characters[number]) for number in rare):,}")


def find_faces(fonts: Sequence[Path]) -> list[Face]:
    """The fonts in these files and folders, sorted by name. Raises InputError."""
    paths: list[Path] = []
    for path in fonts:
        if not path.exists():
            raise InputError(f"--fonts {path}: no such file or folder")
        found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        paths += [file for file in found if file.is_file()]
    if not paths:
        raise InputError(f"--fonts {' '.join(map(str, fonts))}: no {' or '.join(SUFFIXES)} file there")
    return [Face(path) for path in sorted(set(paths), key=lambda path: (path.name, str(path)))]


def rare_classes(combined: Originals, at_most: int) -> list[int]:
    """Numbers of the classes with at most this many originals. Raises InputError if images are rendered already."""
    if (combined.origins == Origin.FONT.number).any():
        raise InputError(
            f"{combined.folder}: has images rendered from fonts already; render the originals without them"
        )
    counts = np.bincount(combined.labels, minlength=len(combined.classes))
    return np.flatnonzero(counts <= at_most).tolist()


def render_classes(
    combined: Originals, rare: Sequence[int], faces: Sequence[Face], per_class: int, seed: int
) -> dict[Row, Gray]:
    """Rendered images by their row in the table. One that equals another image, pixel for pixel, is dropped."""
    known = set(combined.ids.tolist())
    rendered: dict[Row, Gray] = {}
    with ThreadPoolExecutor() as pool, count_images(len(rare) * per_class) as progress:
        for number in rare:
            code_point = combined.classes.code_points[number]
            for member, pixels in _render_class(pool, chr(code_point), faces, per_class, seed):
                digest = hashlib.sha256(pixels.tobytes()).digest()
                if original_id(digest) not in known:
                    known.add(original_id(digest))
                    rendered[_row(code_point, member, digest)] = pixels
            progress.update(per_class)
    return rendered


def write_with(folder: Path, combined: Originals, rendered: dict[Row, Gray], faces: Sequence[Face]) -> None:
    """Write the originals with the rendered images among them."""
    known, added = combined.images, np.stack(list(rendered.values()))

    def read(numbers: NDArray[np.int64]) -> Gray:
        """Images by row: the originals first, then the rendered ones."""
        is_new = numbers >= len(known)
        pixels = np.empty((len(numbers), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        pixels[~is_new] = known[numbers[~is_new]]
        pixels[is_new] = added[numbers[is_new] - len(known)]
        return pixels

    fonts = [{"name": face.name, "sha256": face.sha256} for face in faces]
    write_originals(
        folder,
        [*read_rows(combined), *rendered],
        read,
        classes=combined.classes,
        dropped=(combined.folder / DROPPED_NAME).read_text(encoding="utf-8"),
        facts=_facts(combined, rendered, faces),
        sources=[*combined.facts["sources"], *fonts],
    )


def _render_class(
    pool: ThreadPoolExecutor, character: str, faces: Sequence[Face], per_class: int, seed: int
) -> Iterator[tuple[str, Gray]]:
    """Names and images of a character. The fonts that have it take turns."""
    able = [face for face in faces if face.has_glyph(character)]
    if not able:
        return
    outlines = [face.outline(character) for face in able]

    def rendered(number: int) -> tuple[str, Gray]:
        turn = number % len(able)
        pixels = render_character(outlines[turn], generator(seed, character, number))
        return f"{able[turn].name}/{label(ord(character))}/{number:04d}", pixels

    yield from map_in_order(pool, rendered, range(per_class))


def _row(code_point: int, member: str, digest: bytes) -> Row:
    return Row(
        id=f"{original_id(digest):016x}",
        label=label(code_point),
        source=SOURCE,
        member=member,
        sha256=digest.hex(),
        official="",
        lineage=Origin.FONT,
    )


def _facts(combined: Originals, rendered: dict[Row, Gray], faces: Sequence[Face]) -> dict[str, Any]:
    """The facts of the originals, with the rendered images counted in, and the licences of their fonts."""
    facts = {name: value for name, value in combined.facts.items() if name not in WRITTEN_ANEW}
    labels = {row.label for row in rendered}
    used = {row.member.split("/")[0] for row in rendered}
    fonts = sorted({f"{face.name} ({face.licence})" for face in faces if face.name in used})
    return {
        **facts,
        "licence": f"{facts['licence']}; with training images rendered from the fonts {', '.join(fonts)}",
        "counts": {**facts["counts"], "font": len(rendered)},
        "lineage": {**facts.get("lineage", {Origin.KNOWN: len(combined.ids)}), Origin.FONT: len(rendered)},
        "classes_without_images": [name for name in facts["classes_without_images"] if name not in labels],
    }
