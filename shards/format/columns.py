"""Columns: the labels of a split, its originals, and its samples by class, each in one npy file beside the manifest.

Every process of a node maps the same files, so that 39 million labels cost no reading of shards and no memory of its
own. `SPLIT.labels.npy` has the smallest signed type that holds the classes (differences of labels fit in it too);
`SPLIT.sources.npy` is uint64; `SPLIT.by_class.npy`, uint32 (uint64 from 2**32 samples on), has the numbers of all
samples sorted by label, in stored order within a class: balanced orders draw from it without sorting anything.
"""

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.checksums import file_digest
from shards.errors import ChangedShard, CorruptShard, InputError, MissingShard, StorageError
from shards.format import layout
from shards.format.image_layout import read_table
from shards.format.layout import LABEL_TYPE, NPY_HEADER, SOURCE_TYPE
from shards.format.manifest import MANIFEST_NAME, Manifest
from shards.format.manifest_reader import Readable
from shards.format.shard_table import Block, Shard, ShardTable
from shards.order.balanced import count_labels, sort_by_class
from shards.output.files import atomic_file
from shards.regular_files import open_regular, reading

THREADS = 16  # that read labels: 1.8 s for 39 million on a cold disk instead of 4.9 s
REMEDY = "copy or make the set again"

Numbers = NDArray[np.integer[Any]]


class ShardColumns(NamedTuple):
    """The labels and sources of a shard's samples."""

    labels: NDArray[np.int32]
    """Class numbers [n]."""
    sources: NDArray[np.uint64]
    """The original that each image was made from [n]."""


class ColumnFile(NamedTuple):
    """The file of a column, as the manifest describes it."""

    name: str
    sha256: str
    dtype: np.dtype[Any]
    samples: int

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return NPY_HEADER + self.samples * self.dtype.itemsize

    @property
    def head(self) -> bytes:
        """What comes before its data."""
        return layout.npy_header(self.dtype, (self.samples,))


def column_file(manifest: Manifest, split: str, column: str) -> ColumnFile | None:
    """The file of a column; None for a set without columns."""
    samples, columns = manifest.splits[split].samples, manifest.splits[split].columns
    if not columns:
        return None
    return ColumnFile(f"{split}.{column}.npy", columns[column], _dtype(column, manifest.classes, samples), samples)


def column_files(manifest: Manifest) -> Iterator[ColumnFile]:
    """The files of all columns of a set."""
    for split, described in manifest.splits.items():
        for column in described.columns:
            file = column_file(manifest, split, column)
            if file is not None:
                yield file


def map_column(path: Path, file: ColumnFile, *, check: bool = True, where: str = "") -> Numbers:
    """A column's values [n], mapped read-only. check: read the whole file once to compare its sha256.

    where: the column's name in messages, if it is not its path.
    Raises: MissingShard, ChangedShard (another size), CorruptShard (another content), StorageError.
    """
    where = where or str(path)
    try:
        with reading(path) as opened:
            size = os.fstat(opened.fileno()).st_size
            if size != file.size:
                raise ChangedShard(f"{where}: {size} bytes, expected {file.size}; {REMEDY}")
            problem = column_problem(path, file) if check else None
            mapped = mmap.mmap(opened.fileno(), file.size, prot=mmap.PROT_READ)
    except FileNotFoundError as error:
        raise MissingShard(f"{where}: named in {MANIFEST_NAME} but not there; {REMEDY}") from error
    except OSError as error:
        raise StorageError(f"{where}: {error.strerror}") from error
    if problem or mapped[:NPY_HEADER] != file.head:
        raise CorruptShard(f"{where}: {problem or f'no npy file of {file.samples} {file.dtype}'}; {REMEDY}")
    return np.frombuffer(mapped, file.dtype, file.samples, NPY_HEADER) if file.samples else np.empty(0, file.dtype)


def column_problem(path: Path, file: ColumnFile) -> str | None:
    """What is wrong with a column's content, None if nothing is. Raises: OSError."""
    found = file_digest(path)
    return None if found == file.sha256 else f"sha256 {found}, expected {file.sha256}"


def read_packed_columns(path: Path, blocks: Sequence[Block], where: str = "") -> ShardColumns:
    """Labels and sources of a packed shard, compressed or not; its pixels are not read. blocks: of the file at `path`.

    Raises: CorruptShard if they are not where the manifest says, StorageError. where: the shard's name in messages.
    """
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise StorageError(f"{where or path}: {error.strerror}") from error
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # labels lie 5 MB from each other
        parts = [_block_columns(descriptor, number, block, where or str(path)) for number, block in enumerate(blocks)]
    except OSError as error:
        raise StorageError(f"{where or path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return ShardColumns(
        np.concatenate([np.empty(0, LABEL_TYPE), *(part.labels for part in parts)]),
        np.concatenate([np.empty(0, SOURCE_TYPE), *(part.sources for part in parts)]),
    )


def read_image_columns(store: Readable, shard: Shard) -> ShardColumns:
    """Labels and sources of a shard of the image layout, by its table. Raises: CorruptShard, StorageError."""
    table = read_table(store, shard)
    return ShardColumns(table["label"].astype(np.int32), table["source"].astype(np.uint64))


def read_in_threads(read: Callable[[int], ShardColumns], shards: int) -> Iterator[ShardColumns]:
    """The columns of each shard in stored order, read in threads: a disk answers many requests as fast as one.

    read: what gives the columns of a shard, by its number.
    """
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield from pool.map(read, range(shards))
    finally:
        pool.shutdown(cancel_futures=True)


def write_columns(folder: Path, manifest: Manifest) -> Manifest:
    """Write the columns of a set whose shards are in the folder; returns its manifest with their checksums.

    Raises: InputError if labels are not those that the manifest counts, CorruptShard, OSError.
    """
    splits = {
        name: replace(split, columns=_write_split(folder, manifest, name)) for name, split in manifest.splits.items()
    }
    return replace(manifest, splits=splits)


def _write_split(folder: Path, manifest: Manifest, name: str) -> dict[str, str]:
    split = manifest.splits[name]
    types = {column: _dtype(column, manifest.classes, split.samples) for column in ("labels", "sources", "by_class")}
    labels = np.empty(split.samples, types["labels"])

    def sources() -> Iterator[NDArray[np.uint64]]:
        position = 0
        for part in read_in_threads(partial(_read_written, folder, manifest, split.table), len(split.table)):
            stop = position + len(part.labels)
            count_labels(part.labels, manifest.classes)  # before they are stored in the narrow type
            labels[position:stop] = part.labels
            position = stop
            yield part.sources

    try:
        written = {"sources": _write_column(folder / f"{name}.sources.npy", types["sources"], split.samples, sources())}
        counts = count_labels(labels, manifest.classes)
    except ValueError as error:
        raise InputError(f"{folder}: split {name}: {error}") from error
    for label in np.flatnonzero(counts != split.samples_per_class)[:1]:
        found = f"class {label} has {counts[label]} samples, expected {split.samples_per_class[label]}"
        raise InputError(f"{folder}: split {name}: {found}")
    by_class = sort_by_class(labels, counts)
    written["labels"] = _write_column(folder / f"{name}.labels.npy", types["labels"], split.samples, [labels])
    written["by_class"] = _write_column(folder / f"{name}.by_class.npy", types["by_class"], split.samples, [by_class])
    return {column: written[column] for column in types}


def _read_written(folder: Path, manifest: Manifest, table: ShardTable, number: int) -> ShardColumns:
    shard = table[number]
    if manifest.layout == "packed":
        return read_packed_columns(folder / shard.name, shard.blocks)
    return read_image_columns(_Folder(folder), shard)


class _Folder:
    """A folder, for `read_table`."""

    def __init__(self, folder: Path) -> None:
        self.location, self._folder = str(folder), folder

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()


def _write_column(path: Path, dtype: np.dtype[Any], samples: int, parts: Iterable[NDArray[Any]]) -> str:
    """Write an npy file; returns its sha256."""
    head = layout.npy_header(dtype, (samples,))
    digest = hashlib.sha256(head)
    with atomic_file(path) as file:
        file.write(head)
        for part in parts:
            data = np.ascontiguousarray(part, dtype).data
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def _dtype(column: str, classes: int, samples: int) -> np.dtype[Any]:
    if column == "sources":
        return SOURCE_TYPE
    if column == "labels":
        return np.dtype(next(name for name in ("<i1", "<i2", "<i4") if classes - 1 <= np.iinfo(name).max))
    return np.dtype("<u4" if samples <= 1 << 32 else "<u8")


def _block_columns(descriptor: int, number: int, block: Block, where: str) -> ShardColumns:
    """Compressed or not, labels and sources are the last of a block, and laid out as in a plain one."""
    samples = block.samples
    head = layout.labels_head(layout.block_key(number), samples)
    start = block.offset + block.bytes - layout.block_bytes(samples)  # of the block, were it plain
    first = start + layout.labels_offset(samples) - len(head)
    data = os.pread(descriptor, block.offset + block.bytes - first, first)
    if data[: len(head)] != head or len(data) != block.offset + block.bytes - first:
        raise CorruptShard(f"{where}: byte {first}: expected the labels of {samples} images; {REMEDY}")
    sources = start + layout.sources_data_offset(samples) - first
    return ShardColumns(
        np.frombuffer(data, LABEL_TYPE, samples, len(head)), np.frombuffer(data, SOURCE_TYPE, samples, sources)
    )
