"""Turn a user's image file of one character into pixels like those that the models were trained on.

The image may have any size, be gray or colour, transparent, of any depth, or rotated by a camera's EXIF tag. This
module reads it; `kkanji.inference.ink` finds the character in it. Whatever cannot be such an image is refused by name.
"""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kkanji.inference.ink import WORK, find_ink
from shards import InputError
from shards.json_reading import read_bounded

LARGEST_PIXELS = 5000 * 5000  # a larger image does not show one character, and may be a decompression bomb
LEAST_SIDE = 12  # of the longer side: at 16 pixels 85 % are still read, at 8 next to nothing
MOST_PAGES = 10_000  # of a file: a page costs a reader more than the file's maker
LARGEST_BYTES = 256 << 20  # of a file: as many pixels in 16 bytes each
# Pillow's other decoders are not needed, and some start programs: that of EPS runs Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpf", ".jpg", ".jpx", ".png", ".tif", ".tiff", ".webp"}
)
TIFF_SUFFIXES = (".tif", ".tiff")
OTHER_SUFFIXES = frozenset({".djvu", ".eps", ".heic", ".heif", ".ico", ".jxl", ".pbm", ".pgm", ".psd", ".svg"})
"""Images too, by their names, but of formats that are not read: whoever gives a folder of them must hear of it."""


class BlankImage(InputError):
    """An image without any ink."""


def load_character(path: Path) -> NDArray[np.uint8]:
    """Load an image file as uint8 [64, 64], white ink on black, as `read_character` prepares it.

    Raises InputError if the file is missing, is not an image, or is blank.
    """
    return read_character(_read(path), str(path))


def load_characters(path: Path) -> Iterator[NDArray[np.uint8] | InputError]:
    """The character on each page of a file, as `read_characters` gives them. Raises InputError for a missing file."""
    return read_characters(_read(path), str(path))


def load_page(path: Path, number: int) -> NDArray[np.uint8]:
    """The character on one page of a TIFF, from 1 on. Raises InputError."""
    where = f"{path}, page {number}"
    picture, _ = _read_page(_read(path), where, number - 1)
    return _find_character(picture, where)


def count_pages(path: Path) -> int:
    """Pages of a TIFF; 1 for any other file, and for one that cannot be read."""
    if path.suffix.lower() not in TIFF_SUFFIXES or not path.is_file():
        return 1
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            return _pages(image, str(path))
    except (
        Exception
    ):  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more; reading says what is wrong
        return 1


def read_character(data: bytes, where: str) -> NDArray[np.uint8]:
    """Prepare the content of an image file, its first page, as uint8 [64, 64]: white ink on black.

    An image like those of the data is taken as it is. In any other, the character is found, and laid out as theirs are.
    where: the file's name, for messages. Raises BlankImage, and InputError for what is not an image.
    """
    first = next(read_characters(data, where))
    if isinstance(first, InputError):
        raise first
    return first


def read_characters(data: bytes, where: str) -> Iterator[NDArray[np.uint8] | InputError]:
    """Prepare every page of a TIFF, as `read_character` does; of a file of another kind, the one image.

    A page that is blank or damaged gives its error, and the next one follows.
    """
    number, count = 0, 1
    while number < count:
        named = where if number == 0 and count == 1 else f"{where}, page {number + 1}"
        try:
            picture, count = _read_page(data, named, number)
            yield _find_character(picture, named if count == 1 else f"{where}, page {number + 1}")
        except InputError as error:
            yield error
        number += 1


def _find_character(picture: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
    """The character in a picture uint8 [H, W] or [H, W, 3]. Raises BlankImage."""
    if picture.min() == picture.max():
        raise BlankImage(f"{where}: every pixel is {picture.min()}; expected a picture of one character")
    if max(picture.shape[:2]) < LEAST_SIDE:
        size = f"{picture.shape[1]}x{picture.shape[0]} pixels"
        raise InputError(f"{where}: {size} are too few for a character; expected {LEAST_SIDE} or more, scan it again")
    found = find_ink(picture)
    if not found.any():
        raise BlankImage(f"{where}: nothing but paper; expected a picture of one character")
    return found


def _read_page(data: bytes, where: str, number: int) -> tuple[NDArray[np.uint8], int]:
    """A page [H, W] or [H, W, 3], and the number of pages. Raises InputError, and nothing else, for any bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata does no harm, and the size is checked below
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                pages = _pages(image, where)
                image.seek(number)
                if image.width * image.height > LARGEST_PIXELS:
                    raise InputError(
                        f"{where}: {image.width}x{image.height} pixels; expected a picture of one character, of at "
                        f"most {LARGEST_PIXELS:,} pixels: cut it out, or make it smaller"
                    )
                image.draft(None, (2 * WORK, 2 * WORK))  # a large JPEG is decoded at a fraction of its size
                return _levels(ImageOps.exif_transpose(image)), pages
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(
            f"{where}: hundreds of millions of pixels; expected a picture of one character, of at most "
            f"{LARGEST_PIXELS:,} pixels: cut it out, or make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{where}: not a readable image; expected one of {', '.join(FORMATS)}: convert it") from None
    except Exception as error:  # on damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        found = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(
            f"{where}: not a readable image ({found}); expected one of {', '.join(FORMATS)}: make it again"
        ) from error


def _pages(image: Image.Image, where: str) -> int:
    """Pages of a TIFF; other files are animations or previews, of which the first image is meant."""
    pages = int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
    if pages > MOST_PAGES:
        raise InputError(f"{where}: {pages:,} pages, expected at most {MOST_PAGES:,}; divide the file")
    return pages


def _read(path: Path) -> bytes:
    """The bytes of a regular file. Raises InputError."""
    if path.is_dir():
        linked = path.is_symlink()
        raise InputError(
            f"{path}: a link to a folder, which is not followed; give the folder itself"
            if linked
            else f"{path}: a folder that may not be read; change its permissions, or leave it out"
        )
    try:
        return read_bounded(path, LARGEST_BYTES)
    except FileNotFoundError:
        found = "a link to nothing" if path.is_symlink() else "no such file"
        raise InputError(f"{path}: {found}; expected an image") from None
    except OSError as error:
        raise InputError(f"{path}: not a readable image ({error.strerror}); leave it out") from error
    except ValueError as error:
        raise InputError(f"{path}: not a readable image ({error}); leave it out") from error


def _levels(image: Image.Image) -> NDArray[np.uint8]:
    """Gray levels [H, W], or red, green and blue [H, W, 3]."""
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bit(np.asarray(image, np.float64))
    levels = _opaque(image, "white")
    return _opaque(image, "black") if levels.min() == levels.max() else levels  # white ink on a transparent background


def _to_8_bit(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale an image of 16 bits, 32 bits or floating point by its own range: 12 bits are stored in 16 just as well."""
    finite = np.isfinite(levels)
    low, high = (levels[finite].min(), levels[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = (np.where(finite, levels, low) - low) / max(high - low, np.finfo(np.float64).tiny) * 255
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def _opaque(image: Image.Image, paper: str) -> NDArray[np.uint8]:
    """The image laid on paper of this colour; gray where it has no colours."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, paper), layered)
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
