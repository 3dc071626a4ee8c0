"""NumPy arrays (.npy) read with care: what the header says is compared with the bytes that there are.

`np.load` takes memory for whatever a header announces: 80 bytes can ask for terabytes.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.json_reading import open_regular

_ERRORS = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError, OverflowError)


def map_array(path: Path) -> NDArray[Any]:
    """Map the array in a .npy file, read-only. Raises OSError, or ValueError with what is wrong."""
    with open(path, "rb", opener=open_regular):
        pass
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _ERRORS as error:
        raise _refused(error) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive, expected one NumPy array")
    return array


def parse_array(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a .npy file, without a copy. Raises ValueError with what is wrong."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header: Any = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(file)
        needed = math.prod(shape) * dtype.itemsize
    except _ERRORS as error:
        raise _refused(error) from error
    there = len(data) - file.tell()
    if dtype.hasobject or fortran or min(shape, default=0) < 0 or needed != there:
        raise ValueError(f"{dtype} {shape} in {there:,} bytes, expected plain numbers in {needed:,}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


def _refused(error: BaseException) -> ValueError:
    return ValueError(f"not a NumPy array ({str(error)[:100] or type(error).__name__})")
