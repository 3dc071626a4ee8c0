"""Random access to single images of a packed set, at the speed of memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shards import layout
from shards.errors import ChangedShard, InputError
from shards.manifest import Manifest, Split, read_manifest
from shards.mapping import map_in_a_row, room
from shards.writer import Samples

Number = TypeVar("Number", bound=np.generic)


class ShardSet:
    """A set on a local disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)

    def split(self, name: str, *, threads: int = 1) -> "SplitReader":
        """A reader of one split. Raises InputError when the set has none of that name."""
        if name not in self.manifest.splits:
            known = ", ".join(sorted(self.manifest.splits))
            raise InputError(f"{self.folder}: no split {name!r}; it has: {known}")
        return SplitReader(self.folder, self.manifest.splits[name], threads=threads)


class SplitReader:
    """The samples 0..n-1 of a split, in stored order, by number."""

    def __init__(self, folder: Path, split: Split, *, threads: int = 1) -> None:
        self.samples = split.samples
        self._bytes = map_in_a_row([(folder / shard.name, shard.bytes) for shard in split.shards])
        self._rows = self._bytes.reshape(-1, layout.IMAGE_BYTES)
        self._labels = self._bytes.view(layout.LABEL_TYPE)
        self._sources = self._bytes.view(layout.SOURCE_TYPE)
        starts = np.cumsum([0, *(room(shard.bytes) for shard in split.shards)])[:-1].tolist()
        self._refuse_other_versions(folder, split, starts)
        self._index_blocks(split, starts)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def gather(self, numbers: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> Samples:
        """The samples of these numbers, in their order, pixels copied into out [n, 64, 64] if given.

        Raises IndexError for a number outside 0..samples-1.
        """
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < self.samples:
            found = f"{numbers.min()}..{numbers.max()}"
            raise IndexError(f"sample numbers {found}; the split has 0..{self.samples - 1}")
        block = np.searchsorted(self._first_sample, numbers, side="right") - 1
        within = numbers - self._first_sample[block]
        images = np.empty((len(numbers), layout.IMAGE_SIZE, layout.IMAGE_SIZE), np.uint8) if out is None else out
        self._take_rows(self._first_row[block] + within, images.reshape((len(numbers), layout.IMAGE_BYTES), copy=False))
        labels = self._labels[self._first_label[block] + within]
        return Samples(images, labels, self._sources[self._first_source[block] + within])

    def labels(self) -> NDArray[np.int32]:
        """The labels of all samples [n]."""
        return self._column(self._labels, self._first_label)

    def sources(self) -> NDArray[np.uint64]:
        """The originals of all samples [n]."""
        return self._column(self._sources, self._first_source)

    def _refuse_other_versions(self, folder: Path, split: Split, starts: list[int]) -> None:
        """A shard packed anew has its old size, so the smallest block of each, the last, is compared too."""
        for start, shard in zip(starts, split.shards, strict=True):
            for block in shard.blocks[-1:]:
                first = start + block.offset
                found = layout.checksum(self._bytes[first : first + block.bytes].data)
                if found != block.crc32:
                    where = f"{folder / shard.name}: block at byte {block.offset}"
                    raise ChangedShard(
                        f"{where} has crc32 {found:08x}, expected {block.crc32:08x}: not the shard that "
                        "dataset.json describes; copy or pack the set again"
                    )

    def _index_blocks(self, split: Split, starts: list[int]) -> None:
        """Per block: its first sample, and the first row, label and source as positions in the mapped bytes."""
        blocks = [
            (start + block.offset, block.samples)
            for start, shard in zip(starts, split.shards, strict=True)
            for block in shard.blocks
        ]
        offsets = np.array([offset for offset, _ in blocks], np.int64)
        self._counts = np.array([samples for _, samples in blocks], np.int64)
        self._first_sample = np.cumsum(self._counts) - self._counts
        self._first_row = (offsets + layout.PIXELS_OFFSET) // layout.IMAGE_BYTES
        labels = np.array([layout.labels_offset(samples) for _, samples in blocks], np.int64)
        sources = np.array([layout.sources_data_offset(samples) for _, samples in blocks], np.int64)
        self._first_label = (offsets + labels) // layout.LABEL_TYPE.itemsize
        self._first_source = (offsets + sources) // layout.SOURCE_TYPE.itemsize

    def _take_rows(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """np.take into a given buffer releases the GIL; mode 'clip' spares it a second buffer."""
        if self._pool is None:
            np.take(self._rows, rows, axis=0, out=out, mode="clip")
            return
        parts = zip(np.array_split(rows, self._threads), np.array_split(out, self._threads), strict=True)
        list(self._pool.map(lambda part: np.take(self._rows, part[0], axis=0, out=part[1], mode="clip"), parts))

    def _column(self, values: NDArray[Number], first: NDArray[np.int64]) -> NDArray[Number]:
        parts = [values[start : start + count] for start, count in zip(first, self._counts, strict=True)]
        return np.concatenate([values[:0], *parts])  # a split may be empty
