"""Shards of PNG or JPEG images, one for each sample, as in any WebDataset: decoded as they are gathered."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import CorruptShard, InputError
from shards.format.image_layout import TABLE_TYPE
from shards.format.samples import Samples
from shards.read.columns import SplitColumns
from shards.read.files import SplitFiles
from shards.read.prefetch import Numbers
from shards.read.reader import SplitReader

Decode = Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]
"""Decodes an image's bytes [n] into pixels [64, 64]; raises InputError."""


class EncodedReader(SplitReader):
    """Reads the image layout by its tables: where each image lies in its tar, its label and its source."""

    def __init__(
        self,
        files: SplitFiles,
        columns: SplitColumns,
        tables: Sequence[NDArray[Any]],
        decode: Decode | None,
        *,
        threads: int = 1,
        check: bool = False,
    ) -> None:
        """tables: of each shard, as `shards.format.image_layout.read_table` gives them."""
        super().__init__(files, columns, threads=threads, check=check)
        self._decode = decode
        self._table: NDArray[Any] = np.concatenate([np.empty(0, TABLE_TYPE), *tables])
        starts = np.repeat(self._range.starts, [len(table) for table in tables])
        self._offsets = self._table["offset"].astype(np.int64) + starts.astype(np.int64)

    def files(self, numbers: Numbers) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
        """The files of these images, as views of the mapped tars, and their labels.

        Valid while the shards of these numbers are mapped (see `follow`).
        """
        self._check(numbers)
        starts, sizes = self._offsets[numbers], self._table["bytes"][numbers]
        files = [self._range.bytes[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        return files, self._table["label"][numbers]

    def where(self, number: int) -> str:
        """A sample's place, for messages."""
        shard = int(self._shard_of(np.array([number]))[0])
        return f"{self._files.where(shard)}: image at byte {self._table['offset'][number]}"

    def _fill(self, numbers: Numbers, samples: Samples) -> None:
        if self._decode is None:
            raise TypeError("a reader of PNG or JPEG images, opened without a decode function, was asked for pixels")
        files, samples.labels[:] = self.files(numbers)
        if len(samples.sources):
            samples.sources[:] = self._table["source"][numbers]
        for number, data, pixels in zip(numbers, files, samples.images, strict=True):
            try:
                self._decode(data, pixels)
            except InputError as error:
                raise CorruptShard(f"{self.where(number)}: {error}") from error

    def addresses_of(self, numbers: Numbers) -> NDArray[np.int64]:
        """Of their files' first and last bytes: most are smaller than a page."""
        starts = self._offsets[numbers] + self._range.bytes.ctypes.data
        return np.concatenate([starts, starts + np.maximum(self._table["bytes"][numbers], 1).astype(np.int64) - 1])
