"""The input of the DALI graph: for each micro-batch, where its images lie, their labels and their augmentation rows.

An image's way through this room, for packed shards:

1. The trainer asks for spans (start, stop) of the sample stream, one for each micro-batch.
2. The order turns a span into sample numbers; the reader makes sure that their shards are mapped into memory, and
   fetches ahead what later spans need.
3. An external source (here) gives DALI the addresses of the pixels, the labels, and the augmentation rows, which depend
   on nothing but the policy, the seed and the positions in the stream.
4. The graph (`kkanji.data.dali`) copies the pixels from these addresses, augments them, and hands them to torch.

Shards of PNG or JPEG images differ in step 3: the source gives DALI the files' bytes, and the graph decodes them.
Where images are resident (`kkanji.data.resident`), the source reads those that no earlier batch had, and the graph is
given only these, beside the numbers of all.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kkanji.augment.policy import Policy, sample_rows
from kkanji.data.codec import check_header, decode_into
from kkanji.data.resident import ResidentImages
from kkanji.data.training_set import KEEP
from shards import CorruptShard, InputError, Order, SplitReader
from shards.format.layout import IMAGE_BYTES, IMAGE_SIZE
from shards.order.sequential import by_epoch, numbers_of
from shards.read.encoded import EncodedReader
from shards.read.packed import PackedReader
from shards.read.prefetch import Numbers

# Parts that a packed batch is cut into, so that DALI's threads share the work: with 4 parts they gather at 65 % of
# NumPy's limit, with 8 at 71 %.
PARTS = 8
Span = tuple[int, int]
"""(start, stop) in the sample stream, which runs on through the epochs."""
Arrays = list[Any]
"""One entry for each input of the graph: an array, or a list of arrays of different lengths."""
Inputs = Literal["addresses", "files", "numbers"]
"""What a graph makes images of: their addresses, PNG or JPEG files, or numbers of resident images and the new ones."""


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
    resident: ResidentImages | None = None
    """Where images stay once they were read; None reads them anew each time."""


class ExternalSource(ABC):
    """The callable behind DALI's `fn.external_source`: each call gives the inputs of one batch.

    Raises StopIteration after the last span. The memory that its addresses point to outlives DALI's use of it: shards
    stay mapped for KEEP batches.
    """

    inputs: ClassVar[Inputs]
    """What it gives in place of pixels."""

    def __init__(self, feed: Feed, spans: Iterable[Span]) -> None:
        self._feed = feed
        self._spans, ahead = tee(spans)
        self._followed: Generator[Numbers]
        self._numbers = self._follow(ahead)
        self._under_way: deque[int] = deque()  # images in each batch that DALI has not delivered yet
        self.ended = False
        """Whether all spans were given. Any other StopIteration is an error, not the end."""

    def __call__(self) -> Arrays:
        span = next(self._spans, None)
        if span is None:
            self.ended = True
            raise StopIteration
        numbers = next(self._numbers)
        self._under_way.append(len(numbers))
        rows = [] if self._feed.policy is None else [np.concatenate(list(self._rows(self._feed.policy, *span)))]
        return self._arrays(numbers, rows)

    def delivered(self) -> int:
        """Called for each batch that DALI has delivered: its images. The batch itself is padded to equal parts."""
        return self._under_way.popleft()

    @abstractmethod
    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        """The graph's inputs: images, labels and, if they are to be augmented, rows [n, ROW]."""

    def raise_if_damaged(self) -> None:
        """Called when DALI failed on a batch: raises CorruptShard if one of the images in progress is damaged."""
        return  # packed pixels need no decoding, so DALI cannot fail on them

    def close(self) -> None:
        """Release the shards that were fetched ahead."""
        self._followed.close()

    def _follow(self, spans: Iterable[Span]) -> Iterator[Numbers]:
        """The sample numbers of each batch, once its pixels can be read."""
        self._followed = self._feed.reader.follow(numbers_of(self._feed.order, spans), keep=KEEP)
        return self._followed

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
        if len(labels) and labels.astype(np.uint64).max() >= known:  # as unsigned, a negative one is large
            found = f"labels {labels.min()}..{labels.max()}, expected 0..{known - 1}"
            raise CorruptShard(f"a sample has {found}; run `kkanji verify` on the set")
        return labels.astype(np.int64) if numbers is None else numbers[labels]


class PackedExternalSource(ExternalSource):
    """For packed shards: addresses of the pixels, in PARTS of equal length."""

    inputs = "addresses"

    def __init__(self, reader: PackedReader, feed: Feed, spans: Iterable[Span]) -> None:
        super().__init__(feed, spans)
        self._reader = reader

    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        addresses, labels = self._reader.locate(numbers)
        return [_parts(addresses), _parts(self._checked(labels)), *map(_parts, rows)]


class EncodedExternalSource(ExternalSource):
    """For shards of PNG or JPEG images: the bytes of each file."""

    inputs = "files"

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


class ResidentExternalSource(ExternalSource):
    """For images that stay on the device: the numbers of all, and the pixels of those that no earlier batch had.

    It reads these itself, and once none is missing it asks the reader for nothing.
    """

    inputs: ClassVar[Inputs] = "numbers"

    def __init__(self, resident: ResidentImages, feed: Feed, spans: Iterable[Span]) -> None:
        self._resident = resident
        self._missing = np.count_nonzero(~resident.present)
        self._new: deque[Numbers] = deque()  # of each batch that DALI has not delivered yet
        super().__init__(feed, spans)

    def delivered(self) -> int:
        """As above; from now on the batch's new images are present."""
        self._resident.present[self._new.popleft()] = True
        return super().delivered()

    def _follow(self, spans: Iterable[Span]) -> Iterator[Numbers]:
        order = self._feed.order
        spans, ahead = tee(spans)
        self._followed = self._feed.reader.follow(self._requests(numbers_of(order, ahead)))
        return numbers_of(order, spans)

    def _requests(self, batches: Iterable[Numbers]) -> Iterator[Numbers]:
        """Those samples of each batch that no earlier one has, until none is missing."""
        coming = self._resident.present.copy()
        missing = self._missing
        for numbers in batches if missing else ():
            new = np.unique(numbers[~coming[numbers]])
            coming[new] = True
            yield new
            missing -= len(new)
            if not missing:
                return

    def _arrays(self, numbers: Numbers, rows: list[NDArray[np.float32]]) -> Arrays:
        new = next(self._followed) if self._missing else _NO_NUMBERS  # an end while some are missing is an error
        self._new.append(new)
        self._missing -= len(new)
        samples = self._feed.reader.gather(new, sources=False)
        labels = self._resident.labels
        labels[new] = self._checked(samples.labels)
        return [*self._images(new, samples.images, numbers), _parts(labels[numbers]), *map(_parts, rows)]

    def _images(self, new: Numbers, pixels: NDArray[np.uint8], numbers: Numbers) -> Arrays:
        """The graph's inputs for a batch: pixels of the new images and their numbers, and the numbers of all."""
        if not len(new):  # DALI has its parts of one image at least
            new, pixels = np.array([self._resident.spare]), _BLANK
        return [_parts(pixels[..., None]), _parts(new), _parts(numbers)]


class ResidentOnHostSource(ResidentExternalSource):
    """On a CPU: new images are put in their places here, and the graph finds all by their addresses."""

    inputs = "addresses"

    def _images(self, new: Numbers, pixels: NDArray[np.uint8], numbers: Numbers) -> Arrays:
        images = self._resident.images.numpy()
        images[new] = pixels
        return [_parts(numbers * IMAGE_BYTES + images.ctypes.data)]


_NO_NUMBERS = np.empty(0, np.int64)
_BLANK = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)


def external_source(feed: Feed, spans: Iterable[Span], *, on_host: bool) -> ExternalSource:
    """The source for the feed's images. Raises TypeError for an unknown kind of reader.

    on_host: whether the graph runs on a CPU.
    """
    if feed.resident is not None:
        kind = ResidentOnHostSource if on_host else ResidentExternalSource
        return kind(feed.resident, feed, spans)
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
