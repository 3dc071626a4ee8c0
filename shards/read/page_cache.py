"""The page cache as a plan, for shards that are used in place.

Left alone, the kernel reads 128 KiB and more around each page that is touched: the first 100 images of a shuffled set
of 159 GB read 738 MB, and one image waits for the other. Where the requests to come draw on more shards than memory
holds, only the pages that are touched are read, and those of the images to come are asked for, many at once
(madvise(2)). Where they draw on a few shards of such a set at a time, these are read by the kernel's own read-ahead
(whole shards asked for ahead of use came later), and dropped behind: else the memory would fill with images that are
not needed before the next epoch, and files that are needed would leave it. A set that fits is left to the kernel.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numba import types
from numpy.typing import NDArray

from shards.compiled import compiled
from shards.read.address_range import PAGE, AddressRange
from shards.read.files import SplitFiles
from shards.read.prefetch import LEAST_NUMBERS, Numbers, Shards, shards_ahead
from shards.store.retry import Workers

MEMORY_FRACTION = 0.8  # of the memory, for shards that stay in it; the rest is for the programs
THREADS = 4  # that ask for pages and drop them; one asks for 30,000 a second, which a disk of this machine serves
_WILL_NEED = 3  # <asm-generic/mman-common.h>

# int madvise(void *, size_t, int)
_madvise: Any = types.ExternalFunction("madvise", cast(Any, types.intc)(types.int64, types.int64, types.intc))


@compiled(nogil=True)
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
        self._uses = np.zeros(len(files.shards), np.int32)  # how many requests of the queue need a shard
        per_shard = sum(shard.samples for shard in files.shards) // max(1, len(files.shards))
        self._most_numbers = max(LEAST_NUMBERS, shards_ahead(files.sizes) * per_shard)

    def serve(self, requests: Iterable[Numbers]) -> Iterator[Numbers]:
        """The requests, one by one."""
        source = iter(requests)
        if sum(self._files.sizes) <= MEMORY_FRACTION * memory_bytes():
            yield from source
            return
        coming = list(self._look_ahead(source))
        scattered = self._bytes_of_queue() > MEMORY_FRACTION * memory_bytes()
        self._mapped.expect(random=scattered)
        while self._queue:
            for numbers in coming if scattered else ():
                self._ask_for(numbers)
            yield self._queue[0]
            self._queued_numbers -= len(self._queue[0])
            done = self._shards_of(self._queue.popleft())
            self._uses[done] -= 1
            coming = list(self._look_ahead(source))
            for number in () if scattered else done[self._uses[done] == 0].tolist():
                _helpers().submit(self._mapped.leave, number, self._files.path(number))

    def _look_ahead(self, source: Iterator[Numbers]) -> Iterator[Numbers]:
        """Queue and yield requests as far as is looked ahead."""
        while self._queued_numbers < self._most_numbers or not self._queue:
            numbers = next(source, None)
            if numbers is None:
                return
            self._queue.append(numbers)
            self._queued_numbers += len(numbers)
            self._uses[self._shards_of(numbers)] += 1
            yield numbers

    def _bytes_of_queue(self) -> int:
        return int(np.array(self._files.sizes, np.int64)[self._uses > 0].sum())

    def _ask_for(self, numbers: Numbers) -> None:
        pages = np.unique(self._addresses_of(numbers) // PAGE * PAGE)
        _helpers().submit(ask_for_pages, pages, PAGE)


@cache
def _helpers() -> Workers:
    """All readers of the process share these threads, which are daemons: the end does not wait for a disk."""
    return Workers(THREADS)
