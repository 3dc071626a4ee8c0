"""Packed shards read at the speed of memory: their images are rows of one range of addresses."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.checksums import crc32
from shards.errors import ChangedShard
from shards.format import layout
from shards.format.samples import Samples
from shards.read.copy_kernels import copy_rows
from shards.read.files import SplitFiles
from shards.read.prefetch import Numbers
from shards.read.reader import SplitReader


class PackedReader(SplitReader):
    """Reads the packed layout: seen as rows of 4,096 bytes, the range of addresses has one image per row."""

    def __init__(self, files: SplitFiles, *, threads: int = 1, check: bool = False) -> None:
        super().__init__(files, threads=threads, check=check)
        self._start = self._range.bytes.ctypes.data
        self._labels = self._range.bytes.view(layout.LABEL_TYPE)
        self._sources = self._range.bytes.view(layout.SOURCE_TYPE)
        self._index_blocks()

    def put(self, number: int, path: Path) -> None:
        """Map a shard's file, unless it is another version than the manifest's.

        A shard packed anew has its old size, so the smallest block, the last, is compared as well. (The cache compares
        all blocks; those of a set used in place are checked by `follow` or in the background.)
        """
        super().put(number, path)
        start = self._range.starts[number]
        for block in self._files.shards[number].plain[-1:]:
            found = crc32(self._range.bytes[start + block.offset :][: block.bytes].data)
            expected = block.crc32
            if found != expected:
                where = f"{path}: block at byte {block.offset} has crc32 {found:08x}, expected {expected:08x}"
                remedy = "not the shard that dataset.json describes; copy or pack the set again"
                raise ChangedShard(f"{where}: {remedy}")

    def labels(self) -> NDArray[np.int32]:
        """The labels of all samples [n]; fetches all shards of a remote split."""
        return np.concatenate([np.empty(0, np.int32), *(samples.labels for samples in self._columns())])

    def sources(self) -> NDArray[np.uint64]:
        """The originals of all samples [n]; fetches all shards of a remote split."""
        return np.concatenate([np.empty(0, np.uint64), *(samples.sources for samples in self._columns())])

    def _index_blocks(self) -> None:
        """Per block: its last sample, and what to add to a sample's number for its row, label and source."""
        blocks = [
            (start + block.offset, block.samples)
            for start, shard in zip(self._range.starts, self._files.shards, strict=True)
            for block in shard.plain
        ]
        offsets = np.array([offset for offset, _ in blocks], np.int64)
        counts = np.array([samples for _, samples in blocks], np.int64)
        labels = np.array([layout.labels_offset(samples) for _, samples in blocks], np.int64)
        sources = np.array([layout.sources_data_offset(samples) for _, samples in blocks], np.int64)
        self._last_sample = np.cumsum(counts)
        first = self._last_sample - counts
        self._block_size = (
            int(counts[0]) if len(counts) and counts[-1] <= counts[0] and np.all(counts[:-1] == counts[0]) else 0
        )
        self._to_row = (offsets + layout.PIXELS_OFFSET) // layout.IMAGE_BYTES - first
        self._to_label = (offsets + labels) // layout.LABEL_TYPE.itemsize - first
        self._to_source = (offsets + sources) // layout.SOURCE_TYPE.itemsize - first

    def _fill(self, numbers: Numbers, samples: Samples) -> None:
        """np.take into a given buffer releases the GIL; mode 'clip' spares it a second buffer."""
        block = self._block_of(numbers)
        images = samples.images.reshape(len(numbers) * layout.IMAGE_BYTES, copy=False)
        copy_rows(self._addresses(numbers, block), images.ctypes.data, layout.IMAGE_BYTES)
        np.take(self._labels, numbers + self._to_label[block], out=samples.labels, mode="clip")
        if len(samples.sources):
            np.take(self._sources, numbers + self._to_source[block], out=samples.sources, mode="clip")

    def locate(self, numbers: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where in memory the 4,096 bytes of each of these samples lie, and their labels, for code that copies itself.

        Valid while the shards of these numbers are mapped (see `follow`).
        """
        self._check(numbers)
        block = self._block_of(numbers)
        return self._addresses(numbers, block), np.take(self._labels, numbers + self._to_label[block])

    def _addresses(self, numbers: Numbers, block: NDArray[np.intp]) -> NDArray[np.int64]:
        return (numbers + self._to_row[block]) * layout.IMAGE_BYTES + self._start

    def addresses_of(self, numbers: Numbers) -> NDArray[np.int64]:
        """Of their pixels, one page each, and of their labels."""
        block = self._block_of(numbers)
        labels = (numbers + self._to_label[block]) * layout.LABEL_TYPE.itemsize + self._start
        return np.concatenate([self._addresses(numbers, block), labels])

    def _block_of(self, numbers: Numbers) -> NDArray[np.intp]:
        """The block that holds each sample; a division where blocks are of one size, as `pack` makes them."""
        if self._block_size:
            return numbers // self._block_size
        return np.searchsorted(self._last_sample, numbers, side="right")

    def _columns(self) -> Iterator[Samples]:
        """All samples, shard after shard, without their pixels."""
        stops = self._last_of_shard
        shards = [number for number, shard in enumerate(self._files.shards) if shard.samples]
        for number, last in zip(shards, self.follow(stops[[number]] - 1 for number in shards), strict=True):
            numbers = np.arange(last[0] + 1 - self._files.shards[number].samples, last[0] + 1)
            block = self._block_of(numbers)
            labels, sources = numbers + self._to_label[block], numbers + self._to_source[block]
            yield Samples(_NO_IMAGES, self._labels[labels], self._sources[sources])


_NO_IMAGES = np.empty((0, layout.IMAGE_SIZE, layout.IMAGE_SIZE), np.uint8)
