"""Random access to single samples of a split, by number."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.format.layout import IMAGE_SIZE
from shards.format.samples import Samples
from shards.order.balanced import Labels
from shards.order.sequential import cut
from shards.read.address_range import AddressRange
from shards.read.columns import SplitColumns
from shards.read.files import SplitFiles
from shards.read.page_cache import PageAhead
from shards.read.prefetch import Numbers, Prefetcher, Shards


class SplitReader(ABC):
    """The samples 0..n-1 of a split, in stored order.

    All shards have their place in one range of addresses. Those of a local set are mapped from the start. Others are
    mapped while `follow` serves requests that need them; `collect` fetches what it needs itself.
    """

    def __init__(self, files: SplitFiles, columns: SplitColumns, *, threads: int = 1, check: bool = False) -> None:
        """check: compare each shard that is used in place with the manifest before `follow` yields samples of it.

        Needed to make another set of this one: the new checksums would otherwise cover damage up.
        """
        self.columns = columns
        """Labels and originals of all samples, and their numbers by class."""
        self.samples = sum(files.samples)
        self._files = files
        self._range = AddressRange(files.sizes)
        self._last_of_shard = np.cumsum(files.samples, dtype=np.int64)
        self._mapped = np.zeros(len(files.shards), bool)
        self._unchecked = np.full(len(files.shards), check and files.in_place)
        self._threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1))  # the caller takes a part too; starts none before use
        self._prefetcher: Prefetcher | None = None
        if files.in_place:
            for number in range(len(files.shards)):
                self.put(number, self._path(number))

    def gather(self, numbers: Numbers, out: NDArray[np.uint8] | None = None, *, sources: bool = True) -> Samples:
        """The samples of these numbers, in their order, pixels copied into out [n, 64, 64] if given.

        sources: False saves looking them up; the result then has none.
        Raises: IndexError for a number outside 0..samples-1, or of a shard that is not mapped (see `follow`);
        ValueError for a buffer that cannot take the pixels.
        """
        self._check(numbers)
        count = len(numbers)
        images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE), np.uint8) if out is None else out
        fits = images.shape == (count, IMAGE_SIZE, IMAGE_SIZE) and images.dtype == np.uint8
        if not (fits and images.flags.carray):
            found = f"{images.dtype} {list(images.shape)}, strides {images.strides}, writeable {images.flags.writeable}"
            raise ValueError(f"a buffer of {found}; expected a writeable, contiguous one of uint8 [{count}, 64, 64]")
        samples = Samples(images, np.empty(count, np.int32), np.empty(count if sources else 0, np.uint64))
        own, *others = (slice(*cut(0, count, part, self._threads)) for part in range(self._threads))
        under_way = [self._pool.submit(self._fill, numbers[part], _cut(samples, part)) for part in others]
        self._fill(numbers[own], _cut(samples, own))
        for part in under_way:
            part.result()
        return samples

    def follow(self, requests: Iterable[Numbers], *, keep: int = 1) -> Generator[Numbers]:
        """Yield each request for samples once it can be gathered, and fetch ahead what later ones need.

        keep: number of the last requests whose samples stay mapped. A reader serves one `follow` at a time.

        Raises: what fetching raises, and InputError if a request needs more than the cache can hold.
        """
        if self._files.in_place:
            ahead = PageAhead(self._files, self._range, self._shards_of, self.addresses_of)
            yield from self._checked(ahead.serve(requests))
            return
        self._prefetcher = Prefetcher(self._files, self, self._shards_of)
        yield from self._prefetcher.serve(requests, keep=keep)

    def collect(self, numbers: Numbers) -> Samples:
        """The samples of these numbers, fetched shard by shard: meant for small numbers of samples."""
        shard = self._shard_of(numbers)
        rows = [np.flatnonzero(shard == number) for number in np.unique(shard)]
        parts = [self.gather(wanted) for wanted in self.follow(numbers[row] for row in rows)]
        back = np.argsort(np.concatenate([np.empty(0, np.intp), *rows]))
        empty = self.gather(numbers[:0])
        return Samples(*(np.concatenate(columns)[back] for columns in zip(empty, *parts, strict=True)))

    def labels(self) -> Labels:
        """The labels of all samples [n]."""
        return self.columns.labels()

    def sources(self) -> NDArray[np.uint64]:
        """The originals of all samples [n]."""
        return self.columns.sources()

    def traffic(self) -> dict[str, int]:
        """Counts of what was streamed so far, and of the shards that are ready ahead; empty for a local set."""
        traffic = self._files.traffic()
        return traffic and traffic | {"shards_ahead": self._prefetcher.depth if self._prefetcher else 0}

    def put(self, number: int, path: Path) -> None:
        """Map a shard's file."""
        self._range.map(number, path)
        self._mapped[number] = True

    def take_off(self, number: int) -> None:
        """Unmap it."""
        self._mapped[number] = False
        self._range.unmap(number)

    @abstractmethod
    def _fill(self, numbers: Numbers, samples: Samples) -> None:
        """Write these samples into arrays of their length; of no length for sources that are not wanted."""

    @abstractmethod
    def addresses_of(self, numbers: Numbers) -> NDArray[np.int64]:
        """Addresses of the bytes that these samples are read from, one or more in each page."""

    def _checked(self, requests: Iterable[Numbers]) -> Iterator[Numbers]:
        for numbers in requests:
            for shard in self._shards_of(numbers).tolist() if self._unchecked.any() else ():
                if self._unchecked[shard]:
                    self._files.check(shard)
                    self._unchecked[shard] = False
            yield numbers

    def _check(self, numbers: Numbers) -> None:
        if len(numbers) and numbers.astype(np.uint64).max() >= self.samples:  # as unsigned, a negative one is large
            found = f"{numbers.min()}..{numbers.max()}"
            raise IndexError(f"sample numbers {found}; the split has 0..{self.samples - 1}")
        if not self._files.in_place:
            shards = self._shard_of(numbers)
            absent = shards[~self._mapped[shards]]
            if len(absent):
                raise IndexError(f"{self._files.where(absent[0])} is not at hand; gather what `follow` gives back")

    def _shards_of(self, numbers: Numbers) -> Shards:
        needed = np.zeros(len(self._mapped), bool)
        needed[self._shard_of(numbers)] = True  # faster than np.unique, which sorts: 12 us instead of 250 for 6,250
        return np.flatnonzero(needed)

    def _shard_of(self, numbers: Numbers) -> NDArray[np.intp]:
        return np.searchsorted(self._last_of_shard, numbers, side="right")

    def _path(self, number: int) -> Path:
        path = self._files.obtain(number)
        assert path is not None  # noqa: S101  (only a file brought ahead may be refused)
        return path


def _cut(samples: Samples, part: slice) -> Samples:
    return Samples(samples.images[part], samples.labels[part], samples.sources[part])
