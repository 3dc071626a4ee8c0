"""The shards of a split and their blocks: as columns in memory, as `Shard` and `Block` one at a time.

A set of 100,000 shards has two million blocks. As columns they take 32 bytes each, as objects 300.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import overload

import numpy as np
from numpy.typing import NDArray

from shards.format.layout import ALIGNMENT, block_bytes

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Where a block lies in its shard."""

    offset: int
    """Where the block starts, in bytes from the start of the tar."""
    bytes: int
    """Length of the block in bytes, headers and padding included."""
    samples: int
    """Images in the block."""
    crc32: int
    """crc32 of all bytes of the block as stored."""
    plain_crc32: int | None = None
    """crc32 of the bytes that a compressed block unpacks to; None for an uncompressed block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar, as it is stored."""

    name: str
    """File name of the tar."""
    bytes: int
    """Length of the tar in bytes."""
    sha256: str
    """sha256 of the tar, in hexadecimal digits."""
    blocks: tuple[Block, ...]
    """Blocks of whole samples, one after another from byte 0 on; only the end of the archive follows them."""
    table_sha256: str | None = None
    """sha256 of the file `table_name`; None in the packed layout, which needs no table."""

    @property
    def samples(self) -> int:
        """Images in the shard."""
        return sum(block.samples for block in self.blocks)

    @property
    def index_name(self) -> str:
        """Name of the file with the shard's DALI index, beside the tar."""
        return self.name.removesuffix(".tar") + ".idx"

    @property
    def table_name(self) -> str:
        """Name of the file with the shard's table of samples, beside `dataset.json`; only in the image layout."""
        return self.name.removesuffix(".tar") + ".samples.npy"

    @property
    def plain(self) -> tuple[Block, ...]:
        """The blocks after unpacking; the stored blocks if nothing is compressed."""
        if all(block.plain_crc32 is None for block in self.blocks):
            return self.blocks
        sizes = [block_bytes(block.samples) for block in self.blocks]
        starts = accumulate(sizes, initial=0)
        return tuple(
            Block(offset=start, bytes=size, samples=block.samples, crc32=block.plain_crc32 or 0)
            for start, size, block in zip(starts, sizes, self.blocks, strict=False)
        )

    @property
    def plain_bytes(self) -> int:
        """Bytes of the tar after unpacking."""
        plain = self.plain
        return self.bytes if plain == self.blocks else plain[-1].offset + plain[-1].bytes + ALIGNMENT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockColumns:
    """The blocks of all shards of a split, [n] each, in stored order. The fields are those of `Block`."""

    offset: Counts
    bytes: Counts
    samples: Counts
    crc32: Counts
    plain_crc32: Counts | None = None
    """None if no block is compressed; -1 for one that is not."""

    def __getitem__(self, number: int) -> Block:
        plain = -1 if self.plain_crc32 is None else int(self.plain_crc32[number])
        return Block(
            offset=int(self.offset[number]),
            bytes=int(self.bytes[number]),
            samples=int(self.samples[number]),
            crc32=int(self.crc32[number]),
            plain_crc32=None if plain < 0 else plain,
        )

    def part(self, first: int, last: int) -> "BlockColumns":
        """The blocks first..last-1."""
        return BlockColumns(
            offset=self.offset[first:last],
            bytes=self.bytes[first:last],
            samples=self.samples[first:last],
            crc32=self.crc32[first:last],
            plain_crc32=None if self.plain_crc32 is None else self.plain_crc32[first:last],
        )

    @classmethod
    def joined(cls, parts: Sequence["BlockColumns"]) -> "BlockColumns":
        """Blocks of one compression one after the other."""
        plain = [part.plain_crc32 for part in parts if part.plain_crc32 is not None]
        return cls(
            offset=np.concatenate([part.offset for part in parts]),
            bytes=np.concatenate([part.bytes for part in parts]),
            samples=np.concatenate([part.samples for part in parts]),
            crc32=np.concatenate([part.crc32 for part in parts]),
            plain_crc32=np.concatenate(plain) if plain else None,
        )

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "BlockColumns":
        """Blocks as columns."""
        plain = [-1 if block.plain_crc32 is None else block.plain_crc32 for block in blocks]
        return cls(
            offset=counts(block.offset for block in blocks),
            bytes=counts(block.bytes for block in blocks),
            samples=counts(block.samples for block in blocks),
            crc32=counts(block.crc32 for block in blocks),
            plain_crc32=counts(plain) if any(value >= 0 for value in plain) else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardTable(Sequence[Shard]):
    """The shards of a split, [s] each, in stored order. Its elements are made when they are asked for."""

    names: tuple[str, ...]
    """File names of the tars."""
    bytes: Counts
    """Length of each tar in bytes."""
    sha256: tuple[str, ...]
    """sha256 of each tar."""
    table_sha256: tuple[str | None, ...]
    """sha256 of each table of samples; None in the packed layout."""
    block_starts: Counts
    """Number of the first block of each shard, and at the end the number of all blocks, [s + 1]."""
    blocks: BlockColumns
    """Blocks of all shards."""

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> "ShardTable":
        """Shards as columns; a table as it is."""
        if isinstance(shards, ShardTable):
            return shards
        shards = tuple(shards)
        return cls(
            names=tuple(shard.name for shard in shards),
            bytes=counts(shard.bytes for shard in shards),
            sha256=tuple(shard.sha256 for shard in shards),
            table_sha256=tuple(shard.table_sha256 for shard in shards),
            block_starts=counts(accumulate((len(shard.blocks) for shard in shards), initial=0)),
            blocks=BlockColumns.of([block for shard in shards for block in shard.blocks]),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        """Equal to any sequence of the same shards."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    @overload
    def __getitem__(self, number: int) -> Shard: ...

    @overload
    def __getitem__(self, number: slice) -> tuple[Shard, ...]: ...

    def __getitem__(self, number: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(number, slice):
            return tuple(map(self._shard, range(*number.indices(len(self)))))
        return self._shard(range(len(self))[number])

    def __iter__(self) -> Iterator[Shard]:
        return map(self._shard, range(len(self)))

    @property
    def samples(self) -> Counts:
        """Images in each shard."""
        return self._sums(self.blocks.samples)

    @property
    def block_counts(self) -> Counts:
        """Number of blocks of each shard."""
        return np.diff(self.block_starts)

    @property
    def plain_offsets(self) -> Counts:
        """Where each block starts in its tar after unpacking."""
        if self.blocks.plain_crc32 is None:
            return self.blocks.offset
        return starts_within(self.block_starts, block_bytes(self.blocks.samples))

    @property
    def plain_bytes(self) -> Counts:
        """Bytes of each tar after unpacking."""
        if self.blocks.plain_crc32 is None:
            return self.bytes
        unpacked = self._sums(block_bytes(self.blocks.samples)) + ALIGNMENT
        return np.where(self.block_counts > 0, unpacked, self.bytes)

    def part(self, first: int, last: int) -> "ShardTable":
        """The shards first..last-1 as a table of their own."""
        start, stop = self.block_starts[[first, last]].tolist()
        return ShardTable(
            names=self.names[first:last],
            bytes=self.bytes[first:last],
            sha256=self.sha256[first:last],
            table_sha256=self.table_sha256[first:last],
            block_starts=self.block_starts[first : last + 1] - start,
            blocks=self.blocks.part(start, stop),
        )

    @classmethod
    def joined(cls, tables: Sequence["ShardTable"]) -> "ShardTable":
        """Tables one after the other, at least one."""
        return cls(
            names=tuple(chain.from_iterable(table.names for table in tables)),
            bytes=np.concatenate([table.bytes for table in tables]),
            sha256=tuple(chain.from_iterable(table.sha256 for table in tables)),
            table_sha256=tuple(chain.from_iterable(table.table_sha256 for table in tables)),
            block_starts=np.concatenate([[0], np.cumsum(np.concatenate([table.block_counts for table in tables]))]),
            blocks=BlockColumns.joined([table.blocks for table in tables]),
        )

    def _sums(self, values: Counts) -> Counts:
        """The sum over the blocks of each shard."""
        return np.diff(np.concatenate([[0], np.cumsum(values)])[self.block_starts])

    def _shard(self, number: int) -> Shard:
        return Shard(
            name=self.names[number],
            bytes=int(self.bytes[number]),
            sha256=self.sha256[number],
            blocks=tuple(map(self.blocks.__getitem__, range(*self.block_starts[number : number + 2].tolist()))),
            table_sha256=self.table_sha256[number],
        )


def counts(values: Iterable[int]) -> Counts:
    """Whole numbers as a column. Raises ValueError for one that it cannot hold."""
    try:
        return np.array([*values], np.int64)
    except OverflowError as error:
        raise ValueError(f"{error}; expected whole numbers below 2**63") from error


def starts_within(block_starts: Counts, sizes: Counts) -> Counts:
    """Where each block starts in its shard if blocks follow each other. block_starts: as in `ShardTable`."""
    starts: Counts = np.concatenate([[0], np.cumsum(sizes)])
    return starts[:-1] - np.repeat(starts[block_starts[:-1]], np.diff(block_starts))


def _same(one: object, other: object) -> bool:
    return one == other
