"""NumPy arrays (.npy) read with care: what the header says is compared with the bytes that there are.

`np.load` takes memory for whatever a header announces: 80 bytes can ask for terabytes.
"""

import io
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.regular_files import reading

_HEADER_BYTES = 64 << 10  # most bytes of a header of version 1; NumPy reads no longer one


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


def map_array(path: Path) -> NDArray[Any]:
    """Map the array in a .npy file, read-only. Raises OSError, or ValueError with what is wrong."""
    with reading(path) as file:
        header = _header(file.read(_HEADER_BYTES), os.fstat(file.fileno()).st_size)
        if not math.prod(header.shape):
            return np.empty(header.shape, header.dtype)
        return np.memmap(file, header.dtype, "r", header.offset, header.shape)


def parse_array(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a .npy file, without a copy. Raises ValueError with what is wrong."""
    header = _header(data[:_HEADER_BYTES], len(data))
    return np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.shape)


def _header(start: bytes, size: int) -> _Header:
    """The header at the start of a file of `size` bytes. Raises ValueError unless they are as many as it says."""
    file = io.BytesIO(start)
    if start.startswith(b"PK"):
        raise ValueError("an archive, expected one NumPy array")
    try:
        first = np.lib.format.read_magic(file) == (1, 0)
        read_header: Any = getattr(np.lib.format, f"read_array_header_{1 if first else 2}_0")
        shape, fortran, dtype = read_header(file)
        needed = math.prod(shape) * dtype.itemsize
    except Exception as error:  # NumPy parses it as Python: SyntaxError, TokenError, MemoryError and more
        raise ValueError(f"not a NumPy array ({str(error)[:100] or type(error).__name__})") from error
    there = size - file.tell()
    if dtype.hasobject or (fortran and len(shape) > 1) or min(shape, default=0) < 0 or needed != there:
        raise ValueError(f"{dtype} {shape} in {there:,} bytes, expected plain numbers in {needed:,}")
    return _Header(dtype, shape, file.tell())
