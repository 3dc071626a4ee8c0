"""Boxes of characters on images of pages, from CSV, COCO JSON or IIIF annotations, and the crops that they cut.

A box is read as the file of its crop would be read. Three forms of a file of boxes:

- CSV with a line of names: `file` (or image, page), `x`, `y`, `w`, `h` (or width, height) in pixels, and an `id` if you
  like; instead of the four numbers a column `region` as in the IIIF Image API 3.0, section 4.1: `x,y,w,h`,
  `pct:x,y,w,h`, `full`. CODH's lists of character shapes (Unicode,Image,X,Y,Block ID,Char ID,Width,Height) are such
  files.
- COCO: images with `id` and `file_name`, annotations with `image_id` and `bbox` [x, y, w, h].
- IIIF: annotations whose target (`on` in Presentation API 2) is a canvas with `#xywh=x,y,w,h` or `#xywh=percent:...`,
  or has such a FragmentSelector. The canvas is the page image whose name is the last part of its address, or the only
  page that is given; its coordinates are pixels of that image.
"""

import csv
import io
import json
import math
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from PIL import ExifTags, Image, ImageOps

from kkanji.inference.image_files import FORMATS, SUFFIXES
from shards.errors import InputError
from shards.json_reading import load_json, read_bounded

LARGEST_PAGE = 178_956_970  # pixels: Pillow opens no more; a folio scanned at 600 dots an inch has 100 million
LARGEST_BYTES = 1 << 30
QUARTER_TURNS = range(5, 9)  # EXIF orientations that exchange width and height
FULL = (0.0, 0.0, 100.0, 100.0)
NAMES = {
    **dict.fromkeys(("file", "image", "page", "file_name", "filename", "path"), "file"),
    **{"width": "w", "height": "h", "char_id": "id", "xywh": "region"},
}
FORMS = "expected CSV with file,x,y,w,h (or file,region), COCO JSON, or IIIF annotations"
_FRAGMENT = re.compile(r"xywh=(?:pixel:)?(?P<percent>percent:)?(?P<numbers>[^&\"]+)")
_REGION = re.compile(r"(?P<percent>pct:)?(?P<numbers>[^:]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle on the image of a page."""

    file: Path
    """The page's image."""
    x: float
    """Left edge, in pixels or percent from the left."""
    y: float
    """Upper edge, in pixels or percent from the top."""
    w: float
    """Width."""
    h: float
    """Height."""
    percent: bool = False
    """Whether the numbers are percent of the page's sides, instead of pixels."""
    id: str = ""
    """Its name in the file of boxes; may be empty."""

    def __str__(self) -> str:
        unit = "percent:" if self.percent else ""
        return f"{self.file}#xywh={unit}{self.x:g},{self.y:g},{self.w:g},{self.h:g}"


def read_boxes(path: Path, pages: Sequence[Path] = ()) -> list[Box]:
    """The boxes in a file, in its order. Raises InputError.

    pages: image files of the pages; without them, boxes name files from the folder of `path` on.
    """
    if path.suffix.lower() == ".json":
        found = list(_in_json(path))
    else:
        found = [_of_row(row, f"{path}: line {number}") for number, row in enumerate(_rows(path), 2)]
    if not found:
        raise InputError(f"{path}: no box in it; {FORMS}")
    places = _Places(path, pages)
    return [
        Box(file=places.find(page), x=x, y=y, w=w, h=h, percent=percent, id=name)
        for page, (x, y, w, h), percent, name in found
    ]


def cut(box: Box) -> bytes:
    """The content of a file of the crop. Raises InputError if the page cannot be read or the box is outside of it."""
    with _READING:
        page = _page(box.file)
    left, top, right, bottom = _pixels(in_pixels(box))
    corners = (max(left, 0), max(top, 0), min(right, page.width), min(bottom, page.height))
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise InputError(f"{box}: outside of the page of {page.width}x{page.height} pixels, or empty; mend the box")
    buffer = io.BytesIO()
    page.crop(corners).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def _of_any_size() -> Iterator[None]:
    """Without the warning that Pillow gives at half of LARGEST_PAGE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@lru_cache(maxsize=64)
def page_size(file: Path, number: int = 1) -> tuple[int, int] | None:
    """Width and height of a page, in pixels as it is seen; None if it cannot be read. number: of several in a file."""
    try:
        with _of_any_size(), Image.open(file, formats=FORMATS) as image:
            image.seek(number - 1)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in QUARTER_TURNS
            return image.size[::-1] if turned else image.size
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more; `cut` says what is wrong
        return None


def in_pixels(box: Box) -> Box:
    """The same box in pixels, if the size of its page is known."""
    size = page_size(box.file) if box.percent else None
    if size is None:
        return box
    across, down = size[0] / 100, size[1] / 100
    return replace(box, x=box.x * across, y=box.y * down, w=box.w * across, h=box.h * down, percent=False)


_READING = threading.Lock()  # decoders share the page: without this, each thread would decode it


@lru_cache(maxsize=2)
def _page(file: Path) -> Image.Image:
    """A page as it is seen. Raises InputError."""
    try:
        with _of_any_size():
            image = Image.open(io.BytesIO(read_bounded(file, LARGEST_BYTES)), formats=FORMATS)
        upright = ImageOps.exif_transpose(image)
        return upright if upright.mode in ("1", "L", "LA", "RGB", "RGBA", "I;16") else upright.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{file}: no such page; expected its image there") from None
    except Image.DecompressionBombError:
        raise InputError(f"{file}: expected a page of at most {LARGEST_PAGE:,} pixels: scale it") from None
    except Exception as error:  # on damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        found = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(f"{file}: not a readable page ({found}); expected one of {', '.join(FORMATS)}") from error


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """Left, top, right, bottom: whole pixels that the box touches."""
    return math.floor(box.x), math.floor(box.y), math.ceil(box.x + box.w), math.ceil(box.y + box.h)


Raw = tuple[str, tuple[float, float, float, float], bool, str]
"""Name of the page, x y w h, whether in percent, id."""


class _Places:
    """Finds the image of a page by the name that a file of boxes gives it."""

    def __init__(self, path: Path, pages: Sequence[Path]) -> None:
        self._path = path
        self._only = pages[0] if len(pages) == 1 else None
        self._known: dict[str, set[Path]] = defaultdict(set)
        for page in pages:
            for name in (str(page), page.name, page.stem):
                self._known[name].add(page)

    def find(self, name: str) -> Path:
        if not self._known:
            return self._beside(name)
        last = PurePosixPath(unquote(name)).name
        for candidate in (name, last, PurePosixPath(last).stem):
            pages = self._known.get(candidate, set())
            if len(pages) > 1:
                raise InputError(
                    f"{self._path}: page {name[:80]!r} is one of {len(pages)} files; give one file of that name"
                )
            if pages:
                return next(iter(pages))
        if self._only is not None and "//" in name:  # the address of a canvas
            return self._only
        raise InputError(f"{self._path}: page {name[:80]!r} is not among the images given; give its file or folder")

    def _beside(self, name: str) -> Path:
        path = self._path.parent / name
        if path.suffix.lower() in SUFFIXES:
            return path
        named = (path.with_name(path.name + suffix) for suffix in sorted(SUFFIXES))
        return next((each for each in named if each.is_file()), path)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a CSV file, by the names of Box."""
    try:
        text = read_bounded(path, LARGEST_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="", restkey="rest")
        reader.fieldnames = [_column(name) for name in reader.fieldnames or ()]
        if not {"file", "region"} <= set(reader.fieldnames) and not {"file", "x", "y", "w", "h"} <= set(
            reader.fieldnames
        ):
            raise InputError(f"{path}: columns {','.join(reader.fieldnames)[:80]!r}; {FORMS}")
        yield from reader
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: {str(getattr(error, 'strerror', None) or error)[:80]}; {FORMS}") from error


def _column(name: str) -> str:
    plain = name.strip().lower().replace(" ", "_")
    return NAMES.get(plain, plain)


def _of_row(row: Mapping[str, str], where: str) -> Raw:
    if row.get("region"):
        return row["file"], *_region(row["region"], _REGION, where), row.get("id", "")
    return row["file"], _numbers([row[name] for name in "xywh"], where), False, row.get("id", "")


def _region(text: str, form: re.Pattern[str], where: str) -> tuple[tuple[float, float, float, float], bool]:
    if text == "full":
        return FULL, True
    match = form.fullmatch(text)
    if match is None:
        raise InputError(f"{where}: region {text[:80]!r}; expected x,y,w,h")
    return _numbers(match["numbers"].split(","), where), match["percent"] is not None


def _numbers(values: Sequence[Any], where: str) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = map(float, values)
    except (TypeError, ValueError):
        raise InputError(f"{where}: found {str(values)[:80]}; expected four numbers, x y w h") from None
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0 or max(abs(x), abs(y), w, h) > LARGEST_PAGE:
        raise InputError(f"{where}: x y w h are {x:g} {y:g} {w:g} {h:g}; expected a width and a height above 0")
    return x, y, w, h


def _in_json(path: Path) -> Iterator[Raw]:
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {str(getattr(error, 'strerror', None) or error)[:80]}; {FORMS}") from error
    if isinstance(content.get("annotations"), list) and isinstance(content.get("images"), list):
        yield from _in_coco(content, path)
    else:
        yield from _in_iiif(content, path)


def _in_coco(content: Mapping[str, Any], path: Path) -> Iterator[Raw]:
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        boxes = [(names[each["image_id"]], each["bbox"], str(each.get("id", ""))) for each in content["annotations"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: an image or annotation without {str(error)[:60]}; expected COCO's fields") from error
    for number, (name, box, identity) in enumerate(boxes):
        yield name, _numbers(box if isinstance(box, list) else [box], f"{path}: annotation {number}"), False, identity


def _in_iiif(content: Any, path: Path) -> Iterator[Raw]:
    for number, annotation in enumerate(_annotations(content)):
        source, fragment = _target(annotation.get("target", annotation.get("on")))
        match = _FRAGMENT.search(fragment)
        if match:
            numbers = _numbers(match["numbers"].split(","), f"{path}: annotation {number}")
            name = annotation.get("id", annotation.get("@id", ""))
            yield source, numbers, match["percent"] is not None, str(name)


def _annotations(content: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in a IIIF document that has a target, in its order."""
    pending = [content]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            if "target" in each or "on" in each:
                yield each
            pending += reversed([value for value in each.values() if isinstance(value, dict | list)])
        elif isinstance(each, list):
            pending += reversed(each)


def _target(target: Any) -> tuple[str, str]:
    """The canvas of a target, and its fragment: `canvas#xywh=...`, or a source and a selector."""
    if isinstance(target, list):
        target = target[0] if target else ""
    if isinstance(target, str):
        source, _, fragment = target.partition("#")
        return source, fragment
    if not isinstance(target, dict):
        return "", ""
    canvas = target.get("source", target.get("full", ""))
    address = canvas.get("id", canvas.get("@id", "")) if isinstance(canvas, dict) else canvas
    return str(address), json.dumps(target.get("selector", ""))


def by_page(boxes: Iterable[Box]) -> list[Box]:
    """The boxes of each page together, pages and boxes in the order in which they come first."""
    pages: dict[Path, list[Box]] = defaultdict(list)
    for box in boxes:
        pages[box.file].append(box)
    return [box for page in pages.values() for box in page]
