"""From an image file to the 64x64 pixels of an original: prepared as `kkanji predict` prepares it, or as it is."""

import io
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from kkanji.inference.image_files import FORMATS, BlankImage, read_characters
from shards.errors import InputError
from shards.format.layout import IMAGE_SIZE
from tools.ingest import png

MOST_BYTES = 64 << 20
"""Of an image to be prepared: 25 million pixels of colour as PNG."""
TURNED = "turned upright by EXIF"
INVERTED = "dark ink on light paper, inverted"
SCALED = "of another size"
GRAYED = "not 8-bit gray"
CHANGES = (INVERTED, TURNED, SCALED, GRAYED)
_UPRIGHT = 1
_MIDDLE = 127


class Prepared(NamedTuple):
    """An original, and what it was made from."""

    pixels: bytes
    """uint8 [64, 64], row by row; all zero for an image without ink."""
    changes: tuple[str, ...]
    """What of CHANGES was done to it."""


def prepare(data: bytes, where: str) -> Iterator[Prepared | InputError]:
    """Prepare the content of an image file, each page of a TIFF. The errors name `where`."""
    for number, pixels in enumerate(read_characters(data, where)):
        if isinstance(pixels, BlankImage):
            yield Prepared(bytes(IMAGE_SIZE**2), ())
        elif isinstance(pixels, InputError):
            yield pixels
        else:
            yield Prepared(pixels.tobytes(), tuple(_changes(data, number)))


def as_it_is(data: bytes, where: str) -> Iterator[Prepared]:
    """Pixels of a PNG of 64x64 gray pixels, white ink on black. Raises InputError for any other image."""
    pixels = png.decode(data, where)
    if _is_light(pixels) and pixels.min() < pixels.max():
        raise InputError(
            f"{where}: light at its edges, as dark ink on paper is; expected white ink on black: leave out --as-is, "
            "and it is inverted"
        )
    yield Prepared(pixels.tobytes(), ())


def as_published(data: bytes, where: str) -> Iterator[Prepared]:
    """Pixels of one of CODH's images: an original is what they published. Raises InputError if it is damaged."""
    yield Prepared(png.decode(data, where).tobytes(), ())


def _changes(data: bytes, page: int) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the preparation
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.seek(page)
            if _is_light(np.asarray(image.convert("L"))):
                yield INVERTED
            if image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT:
                yield TURNED
            if image.size != (IMAGE_SIZE, IMAGE_SIZE):
                yield SCALED
            if image.mode != "L":
                yield GRAYED


def _is_light(gray: NDArray[np.uint8]) -> bool:
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    return bool(np.median(border) > _MIDDLE)
