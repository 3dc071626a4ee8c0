"""The input of the DALI graph: for each micro-batch, where its images lie, their labels and their augmentation rows.

An image's way through this room, for packed shards:

1. The trainer asks for spans (start, stop) of the sample stream, one for each micro-batch.
2. The order turns a span into sample numbers; the reader makes sure that their shards are mapped into memory, and
   fetches ahead what later spans need.
3. An external source (here) gives DALI the addresses of the pixels, the labels, and the augmentation rows, which depend
   on nothing but the policy, the seed and the positions in the stream.
4. The graph (`kkanji.data.dali`) copies the pixels from these addresses, augments them, and hands them to torch.

Shards of PNG or JPEG images differ in step 3: the source gives DALI the files' bytes, and the graph decodes them.
"""

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
from shards.order.sequential import by_epoch, numbers_of
from shards.read.encoded import EncodedReader
from shards.read.packed import PackedReader
from shards.read.prefetch import Numbers

PREFETCH = 2  # batches that DALI has ready or is working on
KEEP = PREFETCH + 2  # batches whose pixels stay mapped: DALI copies them only after the source has given addresses
# Parts that a packed batch is cut into, so that DALI's threads share the work: with 4 parts they gather at 65 % of
# NumPy's limit, with 8 at 71 %.
PARTS = 8
Span = tuple[int, int]
"""(start, stop) in the sample stream, which runs on through the epochs."""
Arrays = list[Any]
"""One entry for each input of the graph: an array, or a list of arrays of different lengths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """What a loader delivers: samples of a split in an order, augmented or not."""

    reader: SplitReader
    """Reader of the split's images."""
    order: Order
    """Order of the samples in each epoch."""
    classes: int
    """Number of classes; labels must be below it."""
    policy: Policy | None = None
    """Augmentation policy; None delivers images as they are."""
    class_numbers: NDArray[np.int64] | None = None
    """The model's class number for each stored label [labels]; None if the model numbers classes as the set does."""
    strength: Callable[[int], float] = lambda _: 1.0
    """Factor for the policy in each epoch; 1 by default."""


class ExternalSource(ABC):
    """The callable behind DALI's `fn.external_source`: each call gives the inputs of one batch.

    Raises StopIteration after the last span. The memory that its addresses point to outlives DALI's use of it: shards
    stay mapped for KEEP batches.
    """

    def __init__(self, feed: Feed, spans: Iterable[Span]) -> None:
        self._feed = feed
        self._spans, ahead = tee(spans)
        self._numbers = feed.reader.follow(numbers_of(feed.order, ahead), keep=KEEP)
        self.counts: deque[int] = deque()
        """Images in each batch that DALI has not delivered yet. The batches themselves are padded to equal parts."""
        self.ended = False
        """Whether all spans were delivered. Any other StopIteration is an error, not the end."""

    def __call__(self) -> Arrays:
        span = next(self._spans, None)
        if span is None:
            self.ended = True
            raise StopIteration
        numbers = next(self._numbers)
        self.counts.append(len(numbers))
        rows = [] if self._feed.policy is None else [np.concatenate(list(self._rows(self._feed.policy, *span)))]
        return self._arrays(numbers, rows)

    @abstractmethod
    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        """The graph's inputs: images, labels and, if they are to be augmented, rows [n, ROW]."""

    def raise_if_damaged(self) -> None:
        """Called when DALI failed on a batch: raises CorruptShard if one of the images in progress is damaged."""
        return  # packed pixels need no decoding, so DALI cannot fail on them

    def close(self) -> None:
        """Release the shards that were fetched ahead."""
        self._numbers.close()

    def _rows(self, policy: Policy, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """Augmentation rows of a span, cut at the ends of epochs, as the strength may differ between them."""
        samples, seed = self._feed.order.samples, self._feed.order.seed
        for epoch, first, last in by_epoch(start, stop, samples):
            positions = np.arange(first, last) + epoch * samples
            yield sample_rows(policy.scaled(self._feed.strength(epoch)), seed, positions)

    def _checked(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """The model's class numbers. Raises CorruptShard for a label out of range.

        On a GPU such a label would be a device-side assert, which kills the process without a reason.
        """
        numbers = self._feed.class_numbers
        known = self._feed.classes if numbers is None else len(numbers)
        if labels.min() < 0 or labels.max() >= known:
            found = f"labels {labels.min()}..{labels.max()}, expected 0..{known - 1}"
            raise CorruptShard(f"a sample has {found}; run `kkanji verify` on the set")
        return labels.astype(np.int64) if numbers is None else numbers[labels]


class PackedExternalSource(ExternalSource):
    """For packed shards: addresses of the pixels, in PARTS of equal length."""

    def __init__(self, reader: PackedReader, feed: Feed, spans: Iterable[Span]) -> None:
        super().__init__(feed, spans)
        self._reader = reader

    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        addresses, labels = self._reader.locate(numbers)
        return [_parts(addresses), _parts(self._checked(labels)), *map(_parts, rows)]


class EncodedExternalSource(ExternalSource):
    """For shards of PNG or JPEG images: the bytes of each file."""

    def __init__(self, reader: EncodedReader, feed: Feed, spans: Iterable[Span]) -> None:
        super().__init__(feed, spans)
        self._reader = reader
        self._in_progress: deque[Numbers] = deque(maxlen=KEEP)

    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        self._in_progress.append(numbers)
        files, labels = self._reader.files(numbers)
        # DALI would decode an image of any size, and a header of a few bytes can claim gigabytes.
        self._check_each(numbers, files, check_header)
        return [files, self._checked(labels), *rows]

    def raise_if_damaged(self) -> None:
        """Decode the images in progress again, one at a time: DALI does not say which of a batch it failed on."""
        pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for numbers in self._in_progress:
            self._check_each(numbers, self._reader.files(numbers)[0], lambda data: decode_into(data, pixels))

    def _check_each(
        self, numbers: Numbers, files: list[NDArray[np.uint8]], check: Callable[[NDArray[np.uint8]], None]
    ) -> None:
        """Raise CorruptShard, with shard and member, for the first file that fails the check."""
        for number, data in zip(numbers, files, strict=True):
            try:
                check(data)
            except InputError as error:
                raise CorruptShard(f"{self._reader.where(int(number))}: {error}") from error


def external_source(feed: Feed, spans: Iterable[Span]) -> ExternalSource:
    """The source for the feed's kind of reader. Raises TypeError for an unknown kind."""
    if isinstance(feed.reader, EncodedReader):
        return EncodedExternalSource(feed.reader, feed, spans)
    if isinstance(feed.reader, PackedReader):
        return PackedExternalSource(feed.reader, feed, spans)
    raise TypeError(f"{type(feed.reader).__name__}: expected PackedReader or EncodedReader")


def _parts(array: NDArray[Any]) -> NDArray[Any]:
    """A batch [n, ...] as PARTS of equal length, [PARTS, ceil(n / PARTS), ...], padded with copies of the last image.

    DALI outputs parts of equal length as one tensor, so no copy is needed to join them.
    """
    length = -(-len(array) // PARTS)
    missing = PARTS * length - len(array)
    padded = np.concatenate([array, array[-1:].repeat(missing, axis=0)]) if missing else array
    return padded.reshape(PARTS, length, *array.shape[1:])
