"""Packed shards read at the speed of memory: their images are rows of one range of addresses."""

import numpy as np
from numpy.typing import NDArray

from shards.format import layout
from shards.format.samples import Samples
from shards.read.columns import SplitColumns
from shards.read.copy_kernels import copy_rows, locate_rows
from shards.read.files import SplitFiles
from shards.read.prefetch import Numbers
from shards.read.reader import SplitReader


class PackedReader(SplitReader):
    """Reads the packed layout: seen as rows of 4,096 bytes, the range of addresses has one image per row."""

    def __init__(self, files: SplitFiles, columns: SplitColumns, *, threads: int = 1, check: bool = False) -> None:
        super().__init__(files, columns, threads=threads, check=check)
        self._start = self._range.bytes.ctypes.data
        self._labels = self._range.bytes.view(layout.LABEL_TYPE)
        self._sources = self._range.bytes.view(layout.SOURCE_TYPE)
        self._index_blocks()

    def _index_blocks(self) -> None:
        """Per block: its last sample, and what to add to a sample's number for its row, label and source."""
        table = self._files.shards
        offsets = np.repeat(np.array(self._range.starts, np.int64), table.block_counts) + table.plain_offsets
        counts = table.blocks.samples
        labels, sources = layout.labels_offset(counts), layout.sources_data_offset(counts)
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
        addresses, labels = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int32)
        block = self._block_of(numbers)
        locate_rows(numbers, block, self._to_row, self._to_label, self._start, self._labels, addresses, labels)
        return addresses, labels

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
