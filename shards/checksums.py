"""Checksums of files and of blocks."""

import hashlib
import zlib
from pathlib import Path
from typing import BinaryIO

from shards.regular_files import reading

_CHUNK = 1 << 20


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a whole file, in hexadecimal. algorithm: one of hashlib's. Raises: OSError."""
    with reading(path) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def crc32(data: bytes | memoryview, previous: int = 0) -> int:
    """The crc32 of these bytes, or of them and the bytes before, which have the crc32 `previous`."""
    return zlib.crc32(data, previous)


def next_crc32(file: BinaryIO, size: int) -> int:
    """The crc32 of a file's next `size` bytes, fewer at the end of the file. Memory: 1 MiB, however large the block."""
    result = 0
    while size and (data := file.read(min(size, _CHUNK))):
        result = crc32(data, result)
        size -= len(data)
    return result
