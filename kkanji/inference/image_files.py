"""Turn a user's image file of one character into pixels like those that the models were trained on.

The image may have any size, be gray or colour, transparent, 16-bit, or rotated by a camera's EXIF tag; ink may be light
on dark or dark on light, the paper white or brown. Whatever cannot be such an image is refused by name.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from shards import InputError
from shards.format.layout import IMAGE_SIZE
from shards.json_reading import read_bounded

LARGEST_PIXELS = 4096 * 4096  # a larger image does not show one character, and may be a decompression bomb
CLEAN = 16  # gray levels of paper that count as black: the training images have some noise there too
LARGEST_BYTES = 256 << 20  # of a file: as many pixels in 16 bytes each
# Pillow's other decoders are not needed, and some start programs: that of EPS runs Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
OTHER_SUFFIXES = frozenset(
    {".avif", ".djvu", ".eps", ".heic", ".heif", ".ico", ".jp2", ".jpf", ".jpx", ".jxl", ".pbm", ".pgm", ".psd", ".svg"}
)
"""Images too, by their names, but of formats that are not read: whoever gives a folder of them must hear of it."""


class BlankImage(InputError):
    """An image without any ink."""


def load_character(path: Path) -> NDArray[np.uint8]:
    """Load an image file as uint8 [64, 64], white ink on black, as `read_character` prepares it.

    Raises InputError if the file is missing, is not an image, or is blank.
    """
    return read_character(_read(path), str(path))


def read_character(data: bytes, where: str) -> NDArray[np.uint8]:
    """Prepare the content of an image file as uint8 [64, 64], white ink on black.

    Dark ink on light paper is inverted. If the paper is not black then, gray levels are stretched so that the paper
    becomes black and the strongest ink white. Other sizes are scaled, with their proportions kept, to fit on black.
    where: the file's name, for messages. Raises BlankImage, and InputError for what is not an image.
    """
    gray = _read_gray(data, where)
    if gray.min() == gray.max():
        raise BlankImage(f"{where}: every pixel is {gray.min()}; expected a picture of one character")
    light_paper = np.median(_border(gray)) > 127
    ink = _on_black(255 - gray if light_paper else gray)
    return ink if ink.shape == (IMAGE_SIZE, IMAGE_SIZE) else _fit(ink)


def _read_gray(data: bytes, where: str) -> NDArray[np.uint8]:
    """Gray levels [H, W] of a file. Raises InputError, and nothing else, for any bytes that are not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata does no harm, and the size is checked below
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise InputError(
                        f"{where}: {image.width}x{image.height} pixels; expected a picture of one character"
                    )
                return _gray(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{where}: not a readable image; expected one of {', '.join(FORMATS)}: convert it") from None
    except Exception as error:  # on damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        found = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(
            f"{where}: not a readable image ({found}); expected one of {', '.join(FORMATS)}: make it again"
        ) from error


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


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bit(np.asarray(image, np.float64))
    gray = _opaque(image, "white")
    return _opaque(image, "black") if gray.min() == gray.max() else gray  # white ink on a transparent background


def _to_8_bit(levels: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale a 16-bit, 32-bit or floating-point image. White is the least of 1, 255 and 65,535 that no level exceeds."""
    white = next((white for white in (1.0, 255.0, 65535.0) if levels.max() <= white), float(levels.max()))
    return np.clip(np.rint(levels / white * 255), 0, 255).astype(np.uint8)


def _opaque(image: Image.Image, paper: str) -> NDArray[np.uint8]:
    """Gray levels of the image laid on paper of this colour."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, paper), layered)
    return np.asarray(image.convert("L"))


def _border(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])


def _on_black(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stretch the gray levels so that paper is 0 and the strongest ink 255, unless the paper is black already.

    On synthetic crops of brown paper the models are right on 7 % without this, on 94 % with it (docs/LOG.md).
    """
    paper, strongest = float(np.median(_border(ink))), float(ink.max())
    if paper <= CLEAN or strongest <= paper:
        return ink
    stretched: NDArray[np.float64] = np.clip(np.rint((ink - paper) / (strongest - paper) * 255), 0, 255)
    return stretched.astype(np.uint8)


def _fit(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale to 64 pixels on the longer side, and centre on black."""
    height, width = ink.shape
    scale = IMAGE_SIZE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS)
    result = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    result.paste(scaled, ((IMAGE_SIZE - size[0]) // 2, (IMAGE_SIZE - size[1]) // 2))
    return np.asarray(result)
