"""An order for streaming: samples are shuffled over a few shards at a time, and each shard is fetched once an epoch.

The shards of an epoch are shuffled into a row. The samples of each shard are shuffled and cut into `window` parts, and
part j of the row's i-th shard goes to group i + j; a group is shuffled as a whole. So a group mixes `window` shards,
and the next group needs one new shard and drops one.

Lanes serve several nodes. The set is cut into lanes, in stored order, each with a row and groups of its own, and every
global batch takes an equal part from each lane, in their order. A rank's part of a batch is a span of it, so a node
reads only the shards of its own lanes if the number of nodes divides the number of lanes. A lane has the same shards in
every epoch and of any seed, with two exceptions. A batch may span two epochs, so the place where two lanes meet moves
from epoch to epoch, by less than a batch; and the last batch of a run, if shorter, has other parts of the lanes. The
stream depends on neither ranks nor nodes.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.order.permutation import Permutations, mix, permute
from shards.order.sequential import by_epoch, cut

_CACHED = 64  # lanes of an epoch, and groups of a lane, whose tables are kept


class WindowedOrder:
    """Samples shuffled over `window` shards at a time. Memory: a few numbers for each shard."""

    def __init__(
        self, sizes: Sequence[int], *, seed: int, window: int = 8, lanes: int = 1, batch_size: int = 1
    ) -> None:
        """sizes: samples of each shard, in stored order. window: number of shards that are mixed.

        lanes: parts of every global batch, of `batch_size` samples, each from shards of its own.
        """
        if sum(sizes) < 1 or min(sizes) < 0 or min(window, lanes, batch_size) < 1:
            found = f"{sum(sizes)} samples, window={window}, lanes={lanes}, batch_size={batch_size}"
            raise ValueError(f"{found}; expected at least one of each")
        self.sizes = tuple(sizes)
        self.samples = sum(sizes)
        self.seed = seed
        self.window, self.lanes = window, lanes
        self._batch = batch_size if lanes > 1 else 1 << 62  # one lane has all of every batch: no need to cut
        self._lane = lru_cache(_CACHED)(self._make_lane)

    def at(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sample numbers at the stream's positions start..stop-1."""
        parts = (part for span in by_epoch(start, stop, self.samples) for part in self._within(*span))
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _within(self, epoch: int, first: int, last: int) -> Iterator[NDArray[np.int64]]:
        """The sample numbers of a part of an epoch, cut where the next lane's turn comes."""
        epoch_start = epoch * self.samples
        start, stop = epoch_start + first, epoch_start + last
        while start < stop:
            lane, lane_end = self._lane_at(start)
            end = min(stop, lane_end)
            seen = self._seen_of_lane(lane, start) - self._seen_of_lane(lane, epoch_start)
            yield self._lane(epoch, lane).at(seen, seen + end - start)
            start = end

    def _lane_at(self, position: int) -> tuple[int, int]:
        """The lane that a position belongs to, and where in the stream its part of the batch ends."""
        batch, offset = divmod(position, self._batch)
        lane = ((offset + 1) * self.lanes - 1) // self._batch
        return lane, batch * self._batch + cut(0, self._batch, lane, self.lanes)[1]

    def _seen_of_lane(self, lane: int, position: int) -> int:
        """How many of the stream's positions before this one are the lane's."""
        batches, offset = divmod(position, self._batch)
        first, last = cut(0, self._batch, lane, self.lanes)
        return batches * (last - first) + min(max(offset - first, 0), last - first)

    def _make_lane(self, epoch: int, lane: int) -> "_Lane":
        """One lane of an epoch: a span of the set, as long as the lane's part of the epoch's positions."""
        start, stop = epoch * self.samples, (epoch + 1) * self.samples
        lengths = [self._seen_of_lane(each, stop) - self._seen_of_lane(each, start) for each in range(lane + 1)]
        key = mix(mix(self.seed) ^ epoch)
        pieces = list(_pieces(self.sizes, key, sum(lengths[:-1]), sum(lengths)))
        return _Lane(pieces, self.window, mix(key ^ lane))


class _Piece(NamedTuple):
    """A shard, or the part of one that belongs to a lane."""

    first: int
    """Number of its first sample."""
    samples: int
    key: int
    """Of its own shuffle."""


class _Lane:
    """One epoch of one lane: groups of parts of pieces."""

    def __init__(self, pieces: list[_Piece], window: int, key: int) -> None:
        self._pieces, self._key = pieces, key
        self._window = max(1, min(window, len(pieces)))
        sizes = [0] * (len(pieces) + self._window - 1)
        for group, _, start, stop in self._parts():
            sizes[group] += stop - start
        self._starts = [0, *accumulate(sizes)]
        self._group = lru_cache(2)(self._make_group)

    def at(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sample numbers at positions start..stop-1 of the lane's epoch."""
        group = bisect_right(self._starts, start) - 1
        parts = []
        while start < stop:
            first, end = self._starts[group], min(stop, self._starts[group + 1])
            if start < end:
                parts.append(self._group(group).at(np.arange(start - first, end - first, dtype=np.uint64)))
                start = end
            group += 1
        return np.concatenate(parts)

    def _parts(self) -> Iterator[tuple[int, int, int, int]]:
        """(group, piece, start, stop) of every part of every piece."""
        for number, piece in enumerate(self._pieces):
            for part in range(self._window):
                yield number + part, number, *cut(0, piece.samples, part, self._window)

    def _make_group(self, group: int) -> "_Group":
        first = max(0, group - self._window + 1)
        numbers = range(first, min(group + 1, len(self._pieces)))
        starts = [cut(0, self._pieces[n].samples, group - n, self._window) for n in numbers]
        return _Group([self._pieces[n] for n in numbers], starts, mix(self._key + group))


class _Group:
    """Parts of a few pieces, shuffled together."""

    def __init__(self, pieces: list[_Piece], parts: list[tuple[int, int]], key: int) -> None:
        lengths = [stop - start for start, stop in parts]
        self._size, self._key = sum(lengths), key
        self._ends = np.cumsum(lengths)
        self._shift = np.array([start for start, _ in parts]) - self._ends + lengths  # of a number, into its piece
        self._first = np.array([piece.first for piece in pieces], np.int64)
        self._shuffles = Permutations([piece.samples for piece in pieces], [piece.key for piece in pieces])

    def at(self, positions: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The sample numbers at these positions of the group."""
        numbers = permute(positions, self._size, self._key).astype(np.int64)
        which = np.searchsorted(self._ends, numbers, side="right")
        within = (numbers + self._shift[which]).astype(np.uint64)
        return self._first[which] + self._shuffles.at(which, within).astype(np.int64)


def _pieces(sizes: Sequence[int], key: int, start: int, stop: int) -> Iterator[_Piece]:
    """The shards, or parts of them, that have the samples start..stop-1, in the order of the epoch's row."""
    firsts = [0, *accumulate(sizes)]
    for shard in permute(np.arange(len(sizes), dtype=np.uint64), len(sizes), key).tolist():
        first, last = max(start, firsts[shard]), min(stop, firsts[shard + 1])
        if first < last:
            yield _Piece(first, last - first, mix(key + first))
