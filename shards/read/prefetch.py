"""Shards fetched ahead of use: the sample numbers to come decide which, and which are no longer needed."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.cache.cache import larger_cache
from shards.errors import InputError
from shards.read.files import SplitFiles
from shards.read.opening import most_mappings
from shards.store.retry import Workers

Numbers = NDArray[np.int64]
Shards = NDArray[np.intp]
"""Numbers of shards, each once."""
AHEAD_BYTES = 1 << 30  # being fetched or ready beyond the shards in use: keeps all connections busy, with a reserve
AHEAD_SHARDS = range(4, 17)  # the number of these shards, whatever their size
MANY_TIMES = 4  # a cache of this many times the split's size has room for other splits too
WINDOW_FRACTION = 0.5  # fraction of a cache smaller than the split; the rest is for evaluation and for other ranks
LEAST_NUMBERS = 1 << 16  # sample numbers to look ahead over, even if shards are small
MOST_READY = 4  # times the shards ahead, ready or being fetched, when a request needs more than that at once
LOOK_S = 1.0  # between two looks whether somebody waits for room, each under the folder's lock
MOST_REQUESTS = 1 << 12  # to look ahead over, however little each needs


class Shelf(Protocol):
    """The reader's side: where files are mapped so that samples can be gathered from them."""

    def put(self, number: int, path: Path) -> None:
        """Map a shard's file."""

    def take_off(self, number: int) -> None:
        """Unmap it."""


class _Request(NamedTuple):
    numbers: Numbers
    shards: Shards


def shards_ahead(sizes: Sequence[int]) -> int:
    """How many shards are fetched ahead of those in use: the smaller, the more. sizes: of all shards, in bytes."""
    many = AHEAD_BYTES * len(sizes) // max(1, sum(sizes))
    return min(max(many, AHEAD_SHARDS[0]), AHEAD_SHARDS[-1])


class Prefetcher:
    """Serves requests for samples in their order, each when its shards are on the shelf.

    A shard stays on the shelf when nobody needs it for the moment, until others need its room. Bookkeeping is done by
    the thread that takes the requests; other threads only fetch. An error while fetching is raised to whoever waits for
    that shard.
    """

    def __init__(self, files: SplitFiles, shelf: Shelf, shards_of: Callable[[Numbers], Shards]) -> None:
        self._files, self._shelf, self._shards_of = files, shelf, shards_of
        self._queue: deque[_Request] = deque()
        self._next: _Request | None = None  # the first that is not in the queue
        self._served: deque[_Request] = deque()  # and kept
        self._at_yield = False
        self._queued_numbers = 0
        self._sizes = np.array(files.sizes, np.int64)
        self._uses = np.zeros(len(files.sizes), np.int32)  # how many requests of the queue, or kept, need a shard
        self._used_bytes = 0  # of the shards with any use
        self._wanted: dict[int, None] = {}  # needed by the queue, the soonest first, and not yet coming
        self._coming: dict[int, Future[Path | None]] = {}
        self._shelved = np.zeros(len(files.sizes), bool)
        self._shelved_bytes = 0
        self._turn = 0
        self._last_turn = np.zeros(len(files.sizes), np.int64)  # in which a request needed the shard
        self._looked_s = time.monotonic()
        self._plan(sum(files.samples), sum(files.sizes))

    def _plan(self, samples: int, size: int) -> None:
        """How far to look ahead, and how much to keep."""
        files = self._files
        room = files.room_bytes if size <= files.room_bytes else int(files.room_bytes * WINDOW_FRACTION)
        # What fits is never let go. Of a larger set, each user may keep a part of the room, and together half of it.
        keep = size if files.whole_set_fits else int(files.share_bytes() * WINDOW_FRACTION)
        # Whatever is no larger than so many of the smallest shards has no more shards than a process may map.
        mapped = int(np.sort(self._sizes)[: most_mappings()].sum())
        self._room_bytes, self._keep_bytes = min(room, mapped), min(keep, mapped)
        # In a small cache, shards fetched ahead would block an evaluation that needs the room.
        ample = files.whole_set_fits or MANY_TIMES * size <= files.room_bytes
        self._ahead = shards_ahead(files.sizes) if ample else AHEAD_SHARDS[0]
        self._most_numbers = max(LEAST_NUMBERS, self._ahead * samples // max(1, len(files.shards)))

    @property
    def depth(self) -> int:
        """Shards that are ready, or being fetched, beyond those in use."""
        return len(self._coming)

    def serve(self, requests: Iterable[Numbers], *, keep: int = 1) -> Iterator[Numbers]:
        """The requests, one by one. The shards of the last `keep` that were yielded can be gathered from."""
        source = iter(requests)
        self._next = self._request(next(source, None))
        try:
            while self._look_ahead(source):
                self._shelve(self._queue[0].shards)
                self._look_ahead(source)  # so that what comes next is known before anything is let go
                self._at_yield = True
                yield self._queue[0].numbers
                self._at_yield = False
                self._finish(keep)
        finally:
            self._close()

    def _look_ahead(self, source: Iterator[Numbers]) -> bool:
        """Queue requests until they need enough shards beyond those in use; False when there are none left."""
        while self._next is not None and (not self._queue or self._may_look_further(self._next)):
            self._enqueue(self._next)
            self._next = self._request(next(source, None))
        self._fetch()
        return bool(self._queue)

    def _may_look_further(self, request: _Request) -> bool:
        """Not beyond what the cache can hold at a time: a shard of the next epoch must not keep others out."""
        enough = len(self._coming) + len(self._wanted) >= self._ahead or self._queued_numbers >= self._most_numbers
        enough = enough or len(self._queue) >= MOST_REQUESTS
        return not enough and self._used_bytes + self._new_bytes(request.shards) <= self._room_bytes

    def _new_bytes(self, shards: Shards) -> int:
        return int(self._sizes[shards[self._uses[shards] == 0]].sum())

    def _request(self, numbers: Numbers | None) -> _Request | None:
        if numbers is None:
            return None
        request = _Request(numbers, self._shards_of(numbers))
        size = int(self._sizes[request.shards].sum())
        if size > self._files.room_bytes:
            found = f"a batch draws on {len(request.shards)} shards, {size / 1e9:.3g} GB"
            room = f"the cache has room for {self._files.room_bytes / 1e9:.3g} GB"
            fewer = "give --order windowed, or " if len(request.shards) > 1 else ""
            raise InputError(f"{found}, but {room}; {fewer}{larger_cache(size)}")
        return request

    def _enqueue(self, request: _Request) -> None:
        self._queue.append(request)
        self._queued_numbers += len(request.numbers)
        self._used_bytes += self._new_bytes(request.shards)
        self._uses[request.shards] += 1
        missing = request.shards[~self._shelved[request.shards]].tolist()
        self._wanted.update(dict.fromkeys(number for number in missing if number not in self._coming))

    def _fetch(self) -> None:
        """Have the next shards brought. One that the cache had no room for is brought when it is needed."""
        if not self._wanted:
            return
        under_way = sum(not future.done() for future in self._coming.values())
        most = min(self._ahead - under_way, MOST_READY * self._ahead - len(self._coming))
        for number in list(islice(self._wanted, max(0, most))):
            del self._wanted[number]
            self._let_go_of(self._shelved_bytes + self._coming_bytes() + self._files.sizes[number] - self._keep_bytes)
            self._coming[number] = _fetchers().submit(self._files.obtain, number, ahead=True)

    def _coming_bytes(self) -> int:
        return sum(self._files.sizes[number] for number in self._coming)

    def _shelve(self, shards: Shards) -> None:
        for number in shards[~self._shelved[shards]].tolist():
            self._wanted.pop(number, None)
            coming = self._coming.pop(number, None)
            if coming is not None and not coming.cancel():
                coming.result()
            self._fetch()
            path = self._files.obtain(number, let_go=self._let_go_of_unneeded)
            assert path is not None  # noqa: S101  (only a file brought ahead may be refused)
            self._shelved[number] = True
            self._shelved_bytes += self._files.sizes[number]
            self._shelf.put(number, path)
        self._turn += 1
        self._last_turn[shards] = self._turn

    def _finish(self, keep: int) -> None:
        """Release the request served `keep` requests ago, and of its shards what others need the room of."""
        self._served.append(self._queue.popleft())
        self._queued_numbers -= len(self._served[-1].numbers)
        if len(self._served) < keep:
            return
        shards = self._served.popleft().shards
        self._uses[shards] -= 1
        self._used_bytes -= self._new_bytes(shards)
        if self._others_wait():
            self._let_go_of_unneeded()
        self._let_go_of(self._shelved_bytes - self._keep_bytes)

    def _others_wait(self) -> bool:
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return False
        self._looked_s = now
        return self._files.is_short()

    def _let_go_of_unneeded(self) -> None:
        self._let_go_of(self._shelved_bytes)

    def _let_go_of(self, size: int) -> None:
        """Release shards that no known request needs, so many bytes of them if there are as many.

        Those needed last are released last.
        """
        if size <= 0:
            return
        unneeded = np.flatnonzero(self._shelved & (self._uses == 0))
        for number in unneeded[np.argsort(self._last_turn[unneeded], kind="stable")].tolist():
            if size <= 0:
                return
            size -= self._files.sizes[number]
            self._take_off(number)

    def _take_off(self, number: int) -> None:
        self._shelf.take_off(number)
        self._shelved[number] = False
        self._shelved_bytes -= self._files.sizes[number]
        self._files.release(number)

    def _close(self) -> None:
        """Release everything: at the end, after an error, or when the consumer stops early.

        After an error, the requests that were served last are still being read. So their shards stay mapped; the cache
        may remove their files, as a mapping outlives its file's name.
        """
        served = [] if self._at_yield else self._served  # closed at the yield: nobody reads any more
        kept = {number for request in served for number in request.shards.tolist() if self._shelved[number]}
        for number in kept:
            self._files.release(number)
        self._shelved[list(kept)] = False
        for number in np.flatnonzero(self._shelved).tolist():
            self._take_off(number)
        for number, future in self._coming.items():
            if not future.cancel():
                future.add_done_callback(partial(self._let_go, number))
        self._coming.clear()
        self._queue.clear()
        self._served.clear()
        self._uses[:] = 0

    def _let_go(self, number: int, _: Future[Path | None]) -> None:
        self._files.release(number)


@cache
def _fetchers() -> Workers:
    """All prefetchers share these threads, which are daemons: Ctrl-C does not wait for a server that stalls."""
    return Workers(AHEAD_SHARDS[-1])
