"""PNG and JPEG files of one image of 64x64 gray pixels: encode, decode, and refuse any other image before decoding.

A file's way to pixels: its header is checked first, as a few bytes can claim 65,535 pixels a side and make a decoder
allocate gigabytes; then, where files are converted, its checksums or its end; then OpenCV decodes it. The loader leaves
decoding to DALI and uses only the check of the header (`kkanji.data.feed`).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from shards.errors import InputError
from shards.format.layout import IMAGE_SIZE

Buffer = bytes | memoryview | NDArray[np.uint8]

# Measured on 1,500 originals: level 6 with run lengths takes 1,493 bytes an image and encodes 7,600 images/s on one
# core; level 9 takes 1,527 bytes and encodes 1,500 images/s. JPEG of quality 90 takes 1,924 bytes: ink is nearly
# two-valued, which suits PNG.
_PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
JPEG_QUALITY = 90
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 33  # signature and the whole IHDR chunk
_SIZE = IMAGE_SIZE.to_bytes(4)
_PNG_START = PNG_SIGNATURE + b"\0\0\0\x0dIHDR" + _SIZE + _SIZE + b"\x08\0"  # 8-bit gray of 64x64 pixels
_PNG_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_FRAME = struct.Struct(">BHHB")  # bit depth, height, width, channels
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of frame headers (ITU-T T.81, table B.1)
_JPEG_EXIF, _EXIF_MARK, _UPRIGHT = 0xE1, b"Exif\0\0", 1
_KIND = f"{IMAGE_SIZE}x{IMAGE_SIZE} pixels, 8-bit gray"
_REMEDY = "convert it or leave it out"
_DAMAGED = "fetch it again or leave it out"


def encode(pixels: NDArray[np.uint8], image_format: Literal["png", "jpg"]) -> bytes:
    """Encode an image [64, 64]. PNG is lossless, JPEG is not."""
    options = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY) if image_format == "jpg" else _PNG_OPTIONS
    _, data = cv2.imencode(f".{image_format}", pixels, options)
    return data.tobytes()


def decode_into(data: Buffer, out: NDArray[np.uint8]) -> None:
    """Decode a file into out [64, 64]. Raises InputError if it is not a 64x64 gray PNG or JPEG.

    By OpenCV: it decodes 34,000 originals a second on one core, Pillow 13,000.
    """
    check_header(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape != out.shape or pixels.dtype != np.uint8:
        kind = "PNG" if bytes(data[:8]) == PNG_SIGNATURE else "JPEG"
        raise InputError(f"its pixels cannot be decoded; expected a {kind} of {_KIND}: {_DAMAGED}")
    out[:] = pixels


def decode(data: bytes) -> NDArray[np.uint8]:
    """Check a file as far as its format allows, and decode it to pixels [64, 64].

    The checksums of a PNG are compared, because a decoder may accept a damaged chunk; an animated PNG is refused. JPEG
    has no checksums, so only its end is checked. An image that its EXIF data turn is refused, as decoders differ in
    whether they follow it. Raises InputError if the file is anything else or damaged.
    """
    check_header(data)
    if data.startswith(PNG_SIGNATURE):
        turned = _check_png_chunks(data)
    elif data.endswith(_JPEG_END):
        turned = _jpeg_orientation(data)
    else:
        raise InputError(f"cut short after {len(data)} bytes, without the end of a JPEG: {_DAMAGED}")
    if turned != _UPRIGHT:
        raise InputError(f"turned by its EXIF orientation {turned}; expected pixels as they are seen: {_REMEDY}")
    pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    decode_into(data, pixels)
    return pixels


def check_header(data: Buffer) -> None:
    """Refuse a file that is not 64x64 gray by its own header. Raises InputError with what was found instead."""
    start = bytes(data[:_PNG_HEADER_BYTES])
    if start.startswith(_PNG_START):
        return
    if start.startswith(PNG_SIGNATURE):
        raise InputError(_png_fault(start))
    if not start.startswith(_JPEG_SIGNATURE):
        found = f"{len(data)} bytes starting with {start[:8].hex(' ')}" if start else "0 bytes"
        raise InputError(f"found {found}, expected a PNG or JPEG of {_KIND}: {_REMEDY}")
    depth, height, width, channels = _jpeg_size(bytes(data))
    if (depth, height, width, channels) != (8, IMAGE_SIZE, IMAGE_SIZE, 1):
        raise InputError(
            f"found {width}x{height} pixels, {depth}-bit, {channels} channels; expected {_KIND}: {_REMEDY}"
        )


def _png_fault(start: bytes) -> str:
    if len(start) < _PNG_HEADER_BYTES:
        return f"cut short after {len(start)} bytes; expected a PNG of {_KIND}: {_DAMAGED}"
    if start[8:16] != _PNG_START[8:16]:
        return f"damaged PNG header; expected a PNG of {_KIND}: {_DAMAGED}"
    width, height = int.from_bytes(start[16:20]), int.from_bytes(start[20:24])
    colour = _PNG_COLOURS.get(start[25], f"colour type {start[25]}")
    return f"found {width}x{height} pixels, {start[24]}-bit {colour}; expected a PNG of {_KIND}: {_REMEDY}"


def _check_png_chunks(data: bytes) -> int:
    """The EXIF orientation, 1 without one.

    Raises InputError unless every chunk is complete with a correct crc32, IEND is the last, and none animates.
    """
    position, kind, turned = len(PNG_SIGNATURE), b"", _UPRIGHT
    while kind != b"IEND":
        end = position + 8 + int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        if end + 4 > len(data):
            raise InputError(f"cut short after {len(data)} bytes; expected a PNG of {_KIND}: {_DAMAGED}")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise InputError(f"crc32 of chunk {kind!r} at byte {position} is wrong; {_DAMAGED}")
        if kind == b"acTL":  # animation control
            raise InputError(f"an animated PNG; expected one image of {_KIND}: {_REMEDY}")
        if kind == b"eXIf":
            turned = _orientation(data[position + 8 : end])
        position = end + 4
    if position != len(data):
        raise InputError(f"{len(data) - position} bytes after the end of the PNG; expected a PNG of {_KIND}: {_REMEDY}")
    return turned


def _jpeg_orientation(data: bytes) -> int:
    for marker, position in _jpeg_segments(data):
        end = position + int.from_bytes(data[position : position + 2])
        if marker == _JPEG_EXIF and data[position + 2 : end].startswith(_EXIF_MARK):
            return _orientation(data[position + 2 + len(_EXIF_MARK) : end])
    return _UPRIGHT


def _orientation(exif: bytes) -> int:
    """The orientation in EXIF data, 1 (upright) to 8. Damaged data say nothing, as to a decoder."""
    found = Image.Exif()
    try:
        found.load(exif)
        turned = found.get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:  # Pillow raises SyntaxError, struct.error, ValueError and more
        return _UPRIGHT
    return turned if isinstance(turned, int) and 1 <= turned <= 8 else _UPRIGHT


def _jpeg_size(data: bytes) -> tuple[int, int, int, int]:
    """Bit depth, height, width and channels from the frame header of a JPEG."""
    for marker, position in _jpeg_segments(data):
        if marker in _JPEG_FRAMES and position + 8 <= len(data):
            return _JPEG_FRAME.unpack_from(data, position + 2)
    raise InputError(f"no size in {len(data)} bytes; expected a JPEG of {_KIND}: {_DAMAGED}")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """For each segment before the pixels: its marker, and the position of its length."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] not in (0xD9, 0xDA):
        if data[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        yield data[position + 1], position + 2
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
