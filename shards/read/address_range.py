"""Several files mapped read-only, one after another, into one range of addresses.

A gather over single images then is one `np.take` over one array, however many shards a set has: no grouping by shard,
no copy per shard, and memory is the page cache's alone. Python's mmap cannot choose an address, hence libc by ctypes.

A file of a huge page or more starts on a huge page. Where the kernel keeps a file in folios of that size (seen: Linux
6.18, ext4) one entry of the page tables then stands for 2 MiB; elsewhere for 4 KiB: 2 MB of page tables for each GB.
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
from shards.format.layout import round_up
from shards.regular_files import open_regular

PAGE = mmap.PAGESIZE  # where a mapping may start: 4 KiB on x86, up to 64 KiB on arm64
_MAP_FIXED, _MAP_NORESERVE, _FAILED = 0x10, 0x4000, ctypes.c_void_p(-1).value  # <asm-generic/mman.h>, Linux
_PROT_NONE = 0
HUGE_PAGE = 2 << 20  # of x86 and of most arm64
_NORMAL, _RANDOM, _DONT_NEED = 0, 1, 4  # <asm-generic/mman-common.h>
_RESERVE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class AddressRange:
    """Room for files in one range of addresses; each can be mapped and unmapped on its own.

    `bytes` is the whole range, read-only, one file after another. Reading where no file is mapped ends the process
    (SIGSEGV). The range is freed when the last view of `bytes` is gone.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        """sizes: bytes of each file. File number i lies from byte `starts[i]` on."""
        self.starts, total = _places(sizes)
        self._sizes = list(sizes)
        if total == 0:
            self.bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
            return
        start = _mmap(None, total + HUGE_PAGE, _RESERVE, -1, f"room for {len(sizes)} files")
        self._base = round_up(start, HUGE_PAGE)
        memory = (ctypes.c_uint8 * total).from_address(self._base)
        unmap = weakref.finalize(memory, _libc.munmap, start, total + HUGE_PAGE)
        unmap.atexit = False  # a daemon thread may still be reading then; the kernel unmaps in the end
        self.bytes = np.ctypeslib.as_array(memory)
        self.bytes.flags.writeable = False

    def map(self, number: int, path: Path) -> None:
        """Put a file at its place.

        A file shorter than its mapping would end the process with SIGBUS at first touch, so its size is checked here.
        Raises: MissingShard, ChangedShard (another size than stated), StorageError.
        """
        descriptor = _open(path)
        try:
            found, size = os.fstat(descriptor).st_size, self._sizes[number]
            if found != size:
                remedy = "it was cut or replaced: copy or pack it again"
                raise ChangedShard(f"{path}: {found} bytes, expected {size}; {remedy}")
            _mmap(self._base + self.starts[number], size, mmap.MAP_SHARED | _MAP_FIXED, descriptor, str(path))
        finally:
            os.close(descriptor)

    def unmap(self, number: int) -> None:
        """Make a file's place empty room again."""
        address, size = self._base + self.starts[number], self._sizes[number]
        _mmap(address, size, _RESERVE | _MAP_FIXED, -1, "room for a file")

    def expect(self, *, random: bool) -> None:
        """random: nothing beside the pages that are touched is worth reading, in any mapped file."""
        for number in range(len(self._sizes)):
            self._advise(number, _RANDOM if random else _NORMAL)

    def leave(self, number: int, path: Path) -> None:
        """Drop a file's pages from memory, but for those that another process has mapped. It can still be read.

        path: of the file. Raises: MissingShard, StorageError.
        """
        self._advise(number, _DONT_NEED)  # first: the kernel keeps what is mapped
        descriptor = _open(path)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)

    def _advise(self, number: int, advice: int) -> None:
        _libc.madvise(self._base + self.starts[number], self._sizes[number], advice)


def _places(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each file starts, and where the last one ends."""
    starts, end = [], 0
    for size in sizes:
        starts.append(round_up(end, HUGE_PAGE if size >= HUGE_PAGE else PAGE))
        end = starts[-1] + round_up(size, PAGE)
    return starts, end


def _open(path: Path) -> int:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise MissingShard(f"{path}: named in the manifest but not there; copy it again or pack the set anew") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def _mmap(address: int | None, size: int, flags: int, descriptor: int, what: str) -> int:
    credentials = mmap.PROT_READ if descriptor >= 0 else _PROT_NONE
    result = _libc.mmap(address, size, credentials, flags, descriptor, 0)
    if result is None or result == _FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise StorageError(f"{what}: mapping {size} bytes failed: {reason} (limits: ulimit -v, vm.max_map_count)")
    return int(result)
