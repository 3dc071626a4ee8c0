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
from shards.layout import round_up

PAGE = mmap.PAGESIZE  # where a mapping may start: 4 KiB on x86, up to 64 KiB on arm64
_MAP_FIXED, _MAP_NORESERVE, _FAILED = 0x10, 0x4000, ctypes.c_void_p(-1).value  # <asm-generic/mman.h>, Linux
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_in_a_row(files: Sequence[tuple[Path, int]]) -> NDArray[np.uint8]:
    """The bytes of all files as one read-only array, unmapped when its last view is gone.

    files: (path, size). Each takes `room(size)` bytes of the array.
    Raises: MissingShard, ChangedShard (another size than stated), StorageError.
    """
    total = sum(room(size) for _, size in files)
    if total == 0:
        return np.empty(0, np.uint8)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    base = _mmap(None, total, flags, -1, f"{len(files)} files from {files[0][0]} on")
    memory = (ctypes.c_uint8 * total).from_address(base)
    unmap = weakref.finalize(memory, _libc.munmap, base, total)
    unmap.atexit = False  # a daemon thread may still be reading then; the kernel unmaps in the end
    position = base
    for path, size in files:
        _map_file(path, size, position)
        position += room(size)
    array: NDArray[np.uint8] = np.ctypeslib.as_array(memory)
    array.flags.writeable = False
    return array


def room(size: int) -> int:
    """Bytes from a file's start to where the next one can start."""
    return round_up(size, PAGE)


def _map_file(path: Path, size: int, address: int) -> None:
    """A file shorter than its mapping would end the process with SIGBUS at first touch, so its size is checked here."""
    descriptor = _open(path)
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise ChangedShard(f"{path}: {found} bytes, expected {size}; it was cut or replaced: copy or pack it again")
        _mmap(address, size, mmap.MAP_SHARED | _MAP_FIXED, descriptor, str(path))
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise MissingShard(f"{path}: named in the manifest but not there; copy it again or pack the set anew") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def _mmap(address: int | None, size: int, flags: int, descriptor: int, what: str) -> int:
    result = _libc.mmap(address, size, mmap.PROT_READ, flags, descriptor, 0)
    if result is None or result == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise StorageError(f"{what}: mapping {size} bytes failed: {reason} (limits: ulimit -v, vm.max_map_count)")
    return int(result)
