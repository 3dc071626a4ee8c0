"""What is checked of a split that is used in place before the first sample is read: a few kilobytes of each shard.

A shard must have its size, its last block must begin as a block of that number and size does, and, where the set has
columns, its last originals must be those of the column: a shard that was packed anew has its old size. Every other byte
is compared in the background (`shards.read.background_check`) or by `verify`.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.errors import ChangedShard, InputError, MissingShard, StorageError
from shards.format import layout
from shards.format.columns import THREADS, Numbers
from shards.format.layout import PIXELS_OFFSET, SOURCE_TYPE
from shards.format.shard_table import ShardTable
from shards.regular_files import open_regular

COMPARED = 512  # last originals of a shard: one page
MAP_LIMIT = Path("/proc/sys/vm/max_map_count")
RESERVE = 1024  # mappings that the process needs for other things
REMEDY = "not the shard that dataset.json describes; copy or pack the set again"


class _Last(NamedTuple):
    """The last block of a shard."""

    name: str
    bytes: int
    """Of the tar."""
    number: int
    """Of the block, in its shard."""
    offset: int
    samples: int
    end: int
    """Number of samples in all shards up to here."""


def most_mappings() -> int:
    """How many shards this machine maps at once for a process."""
    try:
        return int(MAP_LIMIT.read_text()) - RESERVE
    except (OSError, ValueError):
        return sys.maxsize


def require_mappings(shards: int, where: str) -> None:
    """Raises InputError if this machine cannot map as many shards at once, before any of them is mapped."""
    most = most_mappings()
    if shards > most:
        found = f"{shards:,} shards, but this machine maps {most:,} files at most"
        remedy = f"raise vm.max_map_count above {shards + RESERVE}, or pack the set again with a larger --shard-size"
        raise InputError(f"{where}: {found}; {remedy}")


def check_packed(folder: Path, table: ShardTable, sources: Numbers | None) -> None:
    """Look at the last block of each shard. sources: of all samples of the split [n], None without columns.

    Raises: MissingShard, ChangedShard, StorageError.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        list(pool.map(partial(_check_shard, folder, sources), _last_blocks(table)))
    finally:
        pool.shutdown(cancel_futures=True)


def _last_blocks(table: ShardTable) -> Iterator[_Last]:
    """The last block of each shard that has any."""
    columns = (table.bytes, table.block_counts, np.cumsum(table.samples))
    for shard, (size, count, end) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        if count:
            block = table.blocks[table.block_starts[shard + 1] - 1]
            yield _Last(table.names[shard], size, count - 1, block.offset, block.samples, end)


def _check_shard(folder: Path, sources: Numbers | None, last: _Last) -> None:
    path = folder / last.name
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        raise MissingShard(f"{path}: named in the manifest but not there; copy it again or pack the set anew") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    try:
        problem = _problem(descriptor, sources, last)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if problem:
        raise ChangedShard(f"{path}: {problem}: {REMEDY}")


def _problem(descriptor: int, sources: Numbers | None, last: _Last) -> str | None:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # read-ahead would fetch 200 kB for 4
    found = os.fstat(descriptor).st_size
    if found != last.bytes:
        return f"{found} bytes, expected {last.bytes}"
    if os.pread(descriptor, PIXELS_OFFSET, last.offset) != layout.images_head(
        layout.block_key(last.number), last.samples
    ):
        return f"other bytes at byte {last.offset}, expected a block of {last.samples} images"
    if sources is None:
        return None
    count = min(last.samples, COMPARED)
    start = last.offset + layout.sources_data_offset(last.samples) + (last.samples - count) * SOURCE_TYPE.itemsize
    stored = os.pread(descriptor, count * SOURCE_TYPE.itemsize, start)
    if stored != sources[last.end - count : last.end].astype(SOURCE_TYPE).tobytes():
        return f"other originals at byte {start}, expected those in the set's column of sources"
    return None
