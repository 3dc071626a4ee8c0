"""Shards fetched ahead of use: the sample numbers to come decide which, and which are no longer needed."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.read.files import SplitFiles
from shards.store.retry import Workers

Numbers = NDArray[np.int64]
AHEAD_BYTES = 1 << 30  # being fetched or ready beyond the shards in use: keeps all connections busy, with a reserve
AHEAD_SHARDS = range(4, 17)  # the number of these shards, whatever their size
MANY_TIMES = 4  # a cache of this many times the split's size has room for other splits too
WINDOW_FRACTION = 0.5  # fraction of a cache smaller than the split; the rest is for evaluation and for other ranks
LEAST_NUMBERS = 1 << 16  # sample numbers to look ahead over, even if shards are small
MOST_REQUESTS = 1 << 12  # to look ahead over, however little each needs


class Shelf(Protocol):
    """The reader's side: where files are mapped so that samples can be gathered from them."""

    def put(self, number: int, path: Path) -> None:
        """Map a shard's file."""

    def take_off(self, number: int) -> None:
        """Unmap it."""


class _Request(NamedTuple):
    numbers: Numbers
    shards: list[int]


def shards_ahead(sizes: Sequence[int]) -> int:
    """How many shards are fetched ahead of those in use: the smaller, the more. sizes: of all shards, in bytes."""
    many = AHEAD_BYTES * len(sizes) // max(1, sum(sizes))
    return min(max(many, AHEAD_SHARDS[0]), AHEAD_SHARDS[-1])


class Prefetcher:
    """Serves requests for samples in their order, each when its shards are on the shelf.

    Bookkeeping is done by the thread that takes the requests; other threads only fetch. An error while fetching is
    raised to whoever waits for that shard.
    """

    def __init__(self, files: SplitFiles, shelf: Shelf, shards_of: Callable[[Numbers], list[int]]) -> None:
        self._files, self._shelf, self._shards_of = files, shelf, shards_of
        self._queue: deque[_Request] = deque()
        self._next: _Request | None = None  # the first that is not in the queue
        self._served: deque[_Request] = deque()  # and kept
        self._at_yield = False
        self._queued_numbers = 0
        self._uses: Counter[int] = Counter()  # how many requests of the queue, or kept, need a shard
        self._wanted: dict[int, None] = {}  # needed by the queue, the soonest first, and not yet coming
        self._coming: dict[int, Future[Path | None]] = {}
        self._shelved: set[int] = set()
        samples = sum(shard.samples for shard in files.shards)
        size = sum(files.sizes)
        fits = size <= files.room_bytes
        self._room_bytes = files.room_bytes if fits else int(files.room_bytes * WINDOW_FRACTION)
        # In a small cache, shards fetched ahead would block an evaluation that needs the room.
        ample = MANY_TIMES * size <= files.room_bytes
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
        return not enough and self._bytes({*self._uses, *request.shards}) <= self._room_bytes

    def _request(self, numbers: Numbers | None) -> _Request | None:
        if numbers is None:
            return None
        request = _Request(numbers, self._shards_of(numbers))
        size = self._bytes(request.shards)
        if size > self._files.room_bytes:
            found = f"a batch draws on {len(request.shards)} shards, {size / 1e9:.2f} GB"
            room = f"the cache has room for {self._files.room_bytes / 1e9:.2f} GB"
            raise InputError(f"{found}, but {room}; give --order windowed, or a larger --cache-size")
        return request

    def _bytes(self, shards: Iterable[int]) -> int:
        return sum(self._files.sizes[shard] for shard in shards)

    def _enqueue(self, request: _Request) -> None:
        self._queue.append(request)
        self._queued_numbers += len(request.numbers)
        self._uses.update(request.shards)
        new = (shard for shard in request.shards if shard not in self._shelved and shard not in self._coming)
        self._wanted.update(dict.fromkeys(new))

    def _fetch(self) -> None:
        """Have the next shards brought. One that the cache had no room for is brought when it is needed."""
        under_way = sum(not future.done() for future in self._coming.values())
        for number in list(self._wanted)[: max(0, self._ahead - under_way)]:
            del self._wanted[number]
            self._coming[number] = _fetchers().submit(self._files.obtain, number, ahead=True)

    def _shelve(self, shards: list[int]) -> None:
        for number in shards:
            if number not in self._shelved:
                self._wanted.pop(number, None)
                coming = self._coming.pop(number, None)
                if coming is not None and not coming.cancel():
                    coming.result()
                path = self._files.obtain(number)
                assert path is not None  # noqa: S101  (only a file brought ahead may be refused)
                self._shelved.add(number)
                self._shelf.put(number, path)

    def _finish(self, keep: int) -> None:
        """Release the request served `keep` requests ago, and the shards that no later one needs."""
        self._served.append(self._queue.popleft())
        self._queued_numbers -= len(self._served[-1].numbers)
        if len(self._served) < keep:
            return
        request = self._served.popleft()
        self._uses.subtract(request.shards)
        for number in request.shards:
            if not self._uses[number]:
                del self._uses[number]
                self._take_off(number)

    def _take_off(self, number: int) -> None:
        self._shelf.take_off(number)
        self._shelved.discard(number)
        self._files.release(number)

    def _close(self) -> None:
        """Release everything: at the end, after an error, or when the consumer stops early.

        After an error, the requests that were served last are still being read. So their shards stay mapped; the cache
        may remove their files, as a mapping outlives its file's name.
        """
        served = [] if self._at_yield else self._served  # closed at the yield: nobody reads any more
        kept = {number for request in served for number in request.shards}
        for number in kept & self._shelved:
            self._files.release(number)
        for number in self._shelved - kept:
            self._take_off(number)
        self._shelved.clear()
        for number, future in self._coming.items():
            if not future.cancel():
                future.add_done_callback(partial(self._let_go, number))
        self._coming.clear()
        self._queue.clear()
        self._served.clear()
        self._uses.clear()

    def _let_go(self, number: int, _: Future[Path | None]) -> None:
        self._files.release(number)


@cache
def _fetchers() -> Workers:
    """All prefetchers share these threads, which are daemons: Ctrl-C does not wait for a server that stalls."""
    return Workers(AHEAD_SHARDS[-1])
