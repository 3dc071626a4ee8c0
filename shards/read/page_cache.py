"""The page cache as a plan, for shards that are used in place.

Left alone, the kernel reads 128 KiB and more around each page that is touched, one image after another: the first 100
images of a shuffled set of 159 GB read 738 MB, and the disk serves one request at a time. The sample numbers to come
say what will be needed, so

- where requests use up a few shards (order windowed, an evaluation), these are read from start to end ahead of use, as
  from a bucket, and if the set is larger than memory they are let go of behind;
- where they draw on all shards and the set fits in memory, one thread reads it from start to end;
- where they draw on all shards of a set larger than memory, the pages of the images to come are asked for, all at once.

All of this is advice (madvise(2)): a kernel that does not follow it costs time only.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from shards.read.address_range import PAGE, AddressRange
from shards.read.files import SplitFiles
from shards.read.prefetch import LEAST_NUMBERS, Numbers, Shards, shards_ahead
from shards.store.retry import Workers

MEMORY_FRACTION = 0.8  # of the memory, for a set that stays in it; the rest is for the programs
WHOLE_SHARDS = 16  # times the bytes of the images ahead: where their shards have more, most of it would be read in vain
BEHIND = 4  # shards that nobody needs here any more and that stay, as other ranks may be some steps behind
THREADS = 4  # that ask for pages; one asks for 30,000 a second, which a disk of this machine serves
_WILL_NEED = 3  # <asm-generic/mman-common.h>

_madvise = types.ExternalFunction("madvise", types.intc(types.int64, types.int64, types.intc))


@njit(cache=True, nogil=True)
def ask_for_pages(addresses: NDArray[np.int64], size: int) -> int:
    """Have `size` bytes from each of these addresses, starts of pages, read without waiting. Returns how many can't."""
    refused = 0
    for address in addresses:
        refused += _madvise(address, size, _WILL_NEED) != 0
    return refused


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or its container's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # not in a container; "max" is no limit
        return machine


def fits_memory(files: SplitFiles) -> bool:
    """Whether the page cache can hold all shards at once."""
    return sum(files.sizes) <= MEMORY_FRACTION * memory_bytes()


class PageAhead:
    """Serves requests in their order, and has the kernel read what later ones need."""

    def __init__(
        self,
        files: SplitFiles,
        mapped: AddressRange,
        shards_of: Callable[[Numbers], Shards],
        addresses_of: Callable[[Numbers], NDArray[np.int64]],
    ) -> None:
        """addresses_of: of the bytes that gathering these samples reads, one in each of their pages."""
        self._files, self._mapped = files, mapped
        self._shards_of, self._addresses_of = shards_of, addresses_of
        self._queue: deque[Numbers] = deque()
        self._queued_numbers = 0
        self._uses = np.zeros(len(files.sizes), np.int32)  # how many requests of the queue need a shard
        self._behind: deque[int] = deque()
        self._fits = fits_memory(files)
        per_shard = sum(shard.samples for shard in files.shards) // max(1, len(files.shards))
        self._most_numbers = max(LEAST_NUMBERS, shards_ahead(files.sizes) * per_shard)

    def serve(self, requests: Iterable[Numbers]) -> Iterator[Numbers]:
        """The requests, one by one."""
        source = iter(requests)
        first = list(self._look_ahead(source))
        needed, size = self._bytes_of_shards(first), sum(self._files.sizes)
        if self._fits and needed == size:
            yield from self._while_all_is_read(first, source)
            return
        ahead = size * self._queued_numbers // max(1, sum(shard.samples for shard in self._files.shards))
        whole = needed <= min(WHOLE_SHARDS * ahead, MEMORY_FRACTION * memory_bytes())
        self._mapped.expect(random=not whole)
        bring, leave = (self._bring_shards, self._leave_shards) if whole else (self._bring_pages, self._leave_pages)
        for numbers in first:
            bring(numbers)
        while self._queue:
            yield self._queue[0]
            leave(self._queue.popleft())
            for numbers in self._look_ahead(source):
                bring(numbers)

    def _while_all_is_read(self, first: list[Numbers], source: Iterator[Numbers]) -> Iterator[Numbers]:
        """All requests; the first ones' pages are read first, then everything."""
        stopped = threading.Event()
        for numbers in first:
            self._bring_pages(numbers)
        _readers().submit(self._read_all, stopped)
        try:
            yield from first
            yield from source
        finally:
            stopped.set()

    def _look_ahead(self, source: Iterator[Numbers]) -> Iterator[Numbers]:
        """Queue and yield requests as far as is looked ahead."""
        while self._queued_numbers < self._most_numbers or not self._queue:
            numbers = next(source, None)
            if numbers is None:
                return
            self._queue.append(numbers)
            self._queued_numbers += len(numbers)
            yield numbers

    def _bytes_of_shards(self, requests: list[Numbers]) -> int:
        numbers = np.concatenate([np.empty(0, np.int64), *requests])
        return int(np.array(self._files.sizes, np.int64)[self._shards_of(numbers)].sum())

    def _bring_shards(self, numbers: Numbers) -> None:
        shards = self._shards_of(numbers)
        new = shards[self._uses[shards] == 0].tolist()
        self._uses[shards] += 1
        for number in new:
            if number in self._behind:
                self._behind.remove(number)
            else:
                _readers().submit(self._mapped.read_ahead, self._files.path(number))

    def _leave_shards(self, numbers: Numbers) -> None:
        self._queued_numbers -= len(numbers)
        shards = self._shards_of(numbers)
        self._uses[shards] -= 1
        self._behind.extend(shards[self._uses[shards] == 0].tolist())
        while len(self._behind) > BEHIND:
            number = self._behind.popleft()
            if not self._fits:
                self._mapped.forget(number, self._files.path(number))

    def _bring_pages(self, numbers: Numbers) -> None:
        pages = np.unique(self._addresses_of(numbers) // PAGE * PAGE)
        _readers().submit(ask_for_pages, pages, PAGE)

    def _leave_pages(self, numbers: Numbers) -> None:
        self._queued_numbers -= len(numbers)

    def _read_all(self, stopped: threading.Event) -> None:
        for number in range(len(self._files.sizes)):
            if stopped.is_set():
                return
            self._mapped.read_ahead(self._files.path(number))


@cache
def _readers() -> Workers:
    """All readers of the process share these threads, which are daemons: the end does not wait for a disk."""
    return Workers(THREADS)
