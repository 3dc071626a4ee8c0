"""One image as Kuzushiji-Kanji has it: a PNG of 64x64 pixels, 8-bit gray. All else is refused before decoding."""

import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.layout import IMAGE_SIZE

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR = struct.Struct(">I4sIIBBBBB")  # length, type, width, height, bit depth, colour, compression, filter, interlace
_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGB with alpha"}
_EXPECTED = f"expected a PNG of {IMAGE_SIZE}x{IMAGE_SIZE} pixels, 8-bit gray"
_REMEDY = "convert it or leave it out"
_DAMAGED = "fetch it again or leave it out"


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The pixels [64, 64]. Raises InputError that names `where`.

    OpenCV decodes 34,000 of the real images a second on one core, Pillow 13,000; the
    checksums are compared before because a decoder may let a damaged chunk pass.
    """
    _check_header(data, where)
    _check_chunks(data, where)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None or pixels.shape != (IMAGE_SIZE, IMAGE_SIZE):
        raise InputError(f"{where}: its pixels cannot be decoded; {_EXPECTED}: {_DAMAGED}")
    return pixels.astype(np.uint8, copy=False)


def _check_header(data: bytes, where: str) -> None:
    if not data.startswith(_SIGNATURE):
        found = f"{len(data)} bytes starting with {data[:8].hex(' ')}" if data else "0 bytes"
        raise InputError(f"{where}: found {found}, {_EXPECTED}: {_REMEDY}")
    if len(data) < len(_SIGNATURE) + _IHDR.size:
        raise InputError(f"{where}: cut short after {len(data)} bytes; {_EXPECTED}: {_DAMAGED}")
    length, kind, width, height, depth, colour, *_ = _IHDR.unpack_from(data, len(_SIGNATURE))
    if (length, kind) != (13, b"IHDR"):
        raise InputError(f"{where}: damaged PNG header; {_EXPECTED}: {_DAMAGED}")
    if (width, height, depth, colour) != (IMAGE_SIZE, IMAGE_SIZE, 8, 0):
        found = f"{width}x{height} pixels, {depth}-bit {_COLOURS.get(colour, f'colour type {colour}')}"
        raise InputError(f"{where}: found {found}; {_EXPECTED}: {_REMEDY}")


def _check_chunks(data: bytes, where: str) -> None:
    """Every chunk whole, its crc32 right, and IEND the last."""
    position, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        end = position + 8 + int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        if end + 4 > len(data):
            raise InputError(f"{where}: cut short after {len(data)} bytes; {_EXPECTED}: {_DAMAGED}")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise InputError(f"{where}: crc32 of chunk {kind!r} at byte {position} is wrong; {_DAMAGED}")
        position = end + 4
    if position != len(data):
        raise InputError(f"{where}: {len(data) - position} bytes after the end of the PNG; {_EXPECTED}: {_REMEDY}")
