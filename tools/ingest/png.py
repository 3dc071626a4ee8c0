"""Decoding of Kuzushiji-Kanji's images: PNG, 64x64 pixels, 8-bit gray. Anything else is refused before decoding."""

import numpy as np
from numpy.typing import NDArray

from kkanji.data import codec
from shards.errors import InputError
from shards.format.layout import IMAGE_SIZE


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The pixels [64, 64]. Raises InputError that names `where`."""
    if not data.startswith(codec.PNG_SIGNATURE):
        found = f"{len(data)} bytes starting with {data[:8].hex(' ')}" if data else "0 bytes"
        expected = f"expected a PNG of {IMAGE_SIZE}x{IMAGE_SIZE} pixels, 8-bit gray"
        raise InputError(f"{where}: found {found}, {expected}: convert it or leave it out")
    try:
        return codec.decode(data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
