"""Several files mapped read-only, one after another, into one range of addresses.

A gather over single images then is one `np.take` over one array, however many shards a set has: no grouping by shard,
no copy per shard, and memory is the page cache's alone. Python's mmap cannot choose an address, hence libc by ctypes.
"""

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import ChangedShard, MissingShard, StorageError

_MAP_FIXED, _MAP_NORESERVE, _FAILED = 0x10, 0x4000, ctypes.c_void_p(-1).value  # <asm-generic/mman.h>, Linux
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_in_a_row(files: Sequence[tuple[Path, int]]) -> NDArray[np.uint8]:
    """The bytes of all files as one read-only array, unmapped when its last view is gone.

    files: (path, size) with sizes that are multiples of the page size.
    Raises: MissingShard, ChangedShard (another size than stated), StorageError.
    """
    total = sum(size for _, size in files)
    base = _mmap(None, total, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1)
    memory = (ctypes.c_uint8 * total).from_address(base)
    weakref.finalize(memory, _libc.munmap, base, total)
    position = base
    for path, size in files:
        _map_file(path, size, position)
        position += size
    array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)
    array.flags.writeable = False
    return array


def _map_file(path: Path, size: int, address: int) -> None:
    """A file shorter than its mapping would end the process with SIGBUS at first touch, so its size is checked here."""
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise ChangedShard(f"{path}: {found} bytes, expected {size}; it was cut or replaced: copy or pack it again")
        _mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise MissingShard(f"{path}: named in the manifest but not there; copy it again or pack the set anew") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    result = _libc.mmap(address, size, protection, flags, descriptor, 0)
    if result is None or result == _FAILED:
        number = ctypes.get_errno()
        raise StorageError(f"mapping {size} bytes failed: {os.strerror(number)} (limits: ulimit -v, vm.max_map_count)")
    return int(result)
