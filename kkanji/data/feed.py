"""What the DALI pipeline is fed with, stretch by stretch: where images lie, their labels, how they are augmented."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kkanji.augment.policy import Policy, sample_rows
from kkanji.data.codec import check_header, decode_into
from shards import CorruptShard, InputError, Order, SplitReader
from shards.format.layout import IMAGE_SIZE
from shards.order.sequential import numbers_of
from shards.read.encoded import EncodedReader
from shards.read.packed import PackedReader
from shards.read.prefetch import Numbers

PREFETCH = 2  # batches that DALI has ready or under way
KEEP = PREFETCH + 2  # batches whose files stay where they were located: DALI has not copied the last ones yet
PARTS = 8  # that a packed batch is cut into, for DALI's threads: 4 gather at 65 % of NumPy's limit, 8 at 71 %
Span = tuple[int, int]
Arrays = list[Any]
"""One entry for each input of the graph: an array, or a list of arrays of different lengths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What a loader brings: samples of a split, in an order, augmented or not."""

    reader: SplitReader
    order: Order
    classes: int
    policy: Policy | None = None
    """None: images as they are."""
    class_numbers: NDArray[np.int64] | None = None
    """Of each stored label [labels], where a model numbers its classes otherwise than the set does."""
    strength: Callable[[int], float] = lambda _: 1.0
    """Of the policy in an epoch."""


class Source(ABC):
    """Called for each batch; raises StopIteration after the last stretch.

    What it locates outlives DALI's use of it: shards stay mapped for KEEP batches.
    """

    def __init__(self, feed: Feed, spans: Iterable[Span]) -> None:
        self._feed = feed
        self._stretches, ahead = tee(spans)
        self._numbers = feed.reader.follow(numbers_of(feed.order, ahead), keep=KEEP)
        self.counts: deque[int] = deque()
        """Images of the batches that DALI has not given out yet; parts are padded."""
        self.ended = False
        """Whether all stretches were brought: any other StopIteration is an error, not the end."""

    def __call__(self) -> Arrays:
        span = next(self._stretches, None)
        if span is None:
            self.ended = True
            raise StopIteration
        numbers = next(self._numbers)
        self.counts.append(len(numbers))
        rows = [] if self._feed.policy is None else [np.concatenate(list(self._rows(self._feed.policy, *span)))]
        return self._arrays(numbers, rows)

    @abstractmethod
    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        """The graph's inputs: images, labels and, if there are any, augmentation rows [n, ROW]."""

    def name_damage(self) -> None:
        """When DALI refused a batch: raise CorruptShard if an image of those under way is at fault."""
        return  # pixels stored as they are cannot be refused

    def close(self) -> None:
        """Let go of shards that were fetched ahead."""
        self._numbers.close()

    def _rows(self, policy: Policy, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Augmentation rows of a stretch, which may span epochs."""
        samples, seed = self._feed.order.samples, self._feed.order.seed
        while start < stop:
            end = min(stop, (start // samples + 1) * samples)
            of_epoch = policy.scaled(self._feed.strength(start // samples))
            yield sample_rows(of_epoch, seed, np.arange(start, end))
            start = end

    def _checked(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """A label out of range would be a device-side assert on a GPU, which kills the process without saying why."""
        numbers = self._feed.class_numbers
        known = self._feed.classes if numbers is None else len(numbers)
        if labels.min() < 0 or labels.max() >= known:
            found = f"labels {labels.min()}..{labels.max()}, expected 0..{known - 1}"
            raise CorruptShard(f"a sample has {found}; run `python -m tools verify` on the set")
        return labels.astype(np.int64) if numbers is None else numbers[labels]


class PackedSource(Source):
    """Of packed shards: addresses of pixels, in PARTS of one length."""

    def __init__(self, reader: PackedReader, feed: Feed, spans: Iterable[Span]) -> None:
        super().__init__(feed, spans)
        self._reader = reader

    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        addresses, labels = self._reader.locate(numbers)
        return [_parts(addresses), _parts(self._checked(labels)), *map(_parts, rows)]


class EncodedSource(Source):
    """Of shards of PNG or JPEG images: their files."""

    def __init__(self, reader: EncodedReader, feed: Feed, spans: Iterable[Span]) -> None:
        super().__init__(feed, spans)
        self._reader = reader
        self._under_way: deque[Numbers] = deque(maxlen=KEEP)

    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        self._under_way.append(numbers)
        files, labels = self._reader.files(numbers)
        self._refuse(numbers, files, check_header)  # a decoder would take another size, and hundreds of megabytes
        return [files, self._checked(labels), *rows]

    def name_damage(self) -> None:
        """Decode again what DALI may have failed at, one image at a time."""
        pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for numbers in self._under_way:
            self._refuse(numbers, self._reader.files(numbers)[0], lambda data: decode_into(data, pixels))

    def _refuse(
        self, numbers: Numbers, files: list[NDArray[np.uint8]], check: Callable[[NDArray[np.uint8]], None]
    ) -> None:
        for number, data in zip(numbers, files, strict=True):
            try:
                check(data)
            except InputError as error:
                raise CorruptShard(f"{self._reader.where(int(number))}: {error}") from error


def source_of(feed: Feed, spans: Iterable[Span]) -> PackedSource | EncodedSource:
    """The source that fits the feed's reader."""
    if isinstance(feed.reader, EncodedReader):
        return EncodedSource(feed.reader, feed, spans)
    if isinstance(feed.reader, PackedReader):
        return PackedSource(feed.reader, feed, spans)
    raise TypeError(f"{type(feed.reader).__name__}: expected a reader of packed or of encoded images")


def _parts(array: NDArray[Any]) -> NDArray[Any]:
    """A batch in PARTS of one length, which makes its output one tensor: the last image stands in for missing ones."""
    length = -(-len(array) // PARTS)
    missing = PARTS * length - len(array)
    padded = np.concatenate([array, array[-1:].repeat(missing, axis=0)]) if missing else array
    return padded.reshape(PARTS, length, *array.shape[1:])
