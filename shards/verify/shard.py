"""Proof of one shard: every byte of it and of what lies beside it, and that they agree."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.checksums import crc32
from shards.errors import ChangedShard, CorruptShard, MissingShard, ShardError, StorageError
from shards.format import layout, ustar
from shards.format.compression import unpack_shard
from shards.format.image_layout import read_table, table_problem
from shards.format.manifest import Compression, Manifest, Shard
from shards.format.tar_headers import MAX_MEMBER_BYTES
from shards.store.retry import Workers
from shards.store.store import Store

Progress = Callable[[int], object]


class Columns(NamedTuple):
    """The labels and sources of a shard's samples."""

    labels: NDArray[np.int32]
    """Class numbers [n]."""
    sources: NDArray[np.uint64]
    """The original that each image was made from [n]."""


def local_files(tars: Store, shards: tuple[Shard, ...]) -> Iterator[tuple[Shard, Path | ShardError]]:
    """Each shard as a file, or the error that explains why there is none.

    Shards of an object store are fetched one ahead of the one being checked, so two are on the disk at a time.
    """
    if tars.folder is not None:
        yield from ((shard, tars.folder / shard.name) for shard in shards)
        return
    with tempfile.TemporaryDirectory(prefix="kkanji-", ignore_cleanup_errors=True) as folder:
        paths = [Path(folder) / shard.name for shard in shards]
        coming = [_fetcher().submit(_fetch, tars, *pair) for pair in zip(shards[:1], paths[:1], strict=True)]
        for number, (shard, path) in enumerate(zip(shards, paths, strict=True)):
            found = coming.pop().result()
            after = zip(shards[number + 1 : number + 2], paths[number + 1 : number + 2], strict=True)
            coming = [_fetcher().submit(_fetch, tars, *pair) for pair in after]
            yield shard, found
            path.unlink(missing_ok=True)


def check_shard(
    store: Store, tars: Store, manifest: Manifest, shard: Shard, path: Path, progress: Progress
) -> list[str]:
    """The problems of a shard, one sentence each. store: has `dataset.json`; tars: has the shard, copied to `path`."""
    where = tars.url(shard.name)
    problems = [*size_problems(where, path, shard)] or [*byte_problems(where, path, shard, progress)]
    if problems:
        return problems
    index = _index_problems(store, where, path, shard, manifest)
    inside = _inner_problems(store, where, path, shard, manifest)
    # Each on its own: an error that ends the one search must not hide what the other finds.
    return [*_with_errors(store, index), *_with_errors(store, inside)]


def read_columns(store: Store, manifest: Manifest, shard: Shard, path: Path) -> Columns:
    """Labels and sources of an undamaged shard."""
    if manifest.layout == "image":
        table = read_table(store, shard)
        return Columns(table["label"].astype(np.int32), table["source"].astype(np.uint64))
    with path.open("rb") as file:
        blocks = [_block_columns(file.fileno(), block.offset + block.bytes, block.samples) for block in shard.blocks]
    return Columns(
        np.concatenate([np.empty(0, np.int32), *(block.labels for block in blocks)]),
        np.concatenate([np.empty(0, np.uint64), *(block.sources for block in blocks)]),
    )


def size_problems(where: str, path: Path, shard: Shard) -> Iterator[str]:
    """A file that is not there, or of another size."""
    try:
        size = path.stat().st_size
    except OSError as error:
        yield f"{where}: {error.strerror}; expected {shard.bytes} bytes"
        return
    if size != shard.bytes:
        yield f"{where}: {size} bytes, expected {shard.bytes}"


def byte_problems(where: str, path: Path, shard: Shard, progress: Progress) -> Iterator[str]:
    """Blocks, or the whole, that are not what their checksums promise."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for number, block in enumerate(shard.blocks):
                data = file.read(block.bytes)
                digest.update(data)
                progress(len(data))
                found = crc32(data)
                if found != block.crc32:
                    place = f"{where}: block {layout.block_key(number)} at byte {block.offset}"
                    yield f"{place}: crc32 {found:08x}, expected {block.crc32:08x}"
            rest = file.read()
    except OSError as error:
        yield f"{where}: {error.strerror}; expected {shard.bytes} bytes"
        return
    digest.update(rest)
    progress(len(rest))
    if digest.hexdigest() != shard.sha256:
        yield f"{where}: sha256 {digest.hexdigest()}, expected {shard.sha256}"


@cache
def _fetcher() -> Workers:
    """One thread, as a download uses all connections; a daemon, so that Ctrl-C does not wait for it."""
    return Workers(1)


def _fetch(tars: Store, shard: Shard, path: Path) -> Path | ShardError:
    """A StorageError is no property of the set and ends the verification."""
    try:
        tars.download(shard.name, shard.bytes, path)
    except (MissingShard, ChangedShard, CorruptShard) as error:
        return error
    return path


def _with_errors(store: Store, problems: Iterator[str]) -> Iterator[str]:
    """Problems, and the error that ends their search, unless it is the object store that fails."""
    try:
        yield from problems
    except ShardError as error:
        if isinstance(error, StorageError) and store.folder is None:
            raise
        yield str(error)


def _index_problems(store: Store, where: str, path: Path, shard: Shard, manifest: Manifest) -> Iterator[str]:
    most = ustar.MAX_SIZE if manifest.layout == "packed" else MAX_MEMBER_BYTES
    expected = ustar.dali_index(ustar.read_archive(path, max_member_bytes=most, where=where))
    if store.read(shard.index_name) != expected.encode():
        yield f"{store.url(shard.index_name)}: not the DALI index of its shard; pack the set again"


def _inner_problems(store: Store, where: str, path: Path, shard: Shard, manifest: Manifest) -> Iterator[str]:
    """Problems that checksums of the stored bytes do not show: in compressed blocks and in tables of images."""
    if manifest.layout == "image":
        problem = table_problem(path, read_table(store, shard))
        if problem:
            yield f"{where}: {problem}"
    elif manifest.compression != "none":
        _unpack(path, shard, manifest.compression)


def _unpack(path: Path, shard: Shard, compression: Compression) -> None:
    """Unpack a shard to check it, and discard the result. Raises CorruptShard."""
    with tempfile.TemporaryDirectory(prefix="kkanji-") as folder:
        unpack_shard(shard, compression, path, Path(folder) / "plain.tar")


def _block_columns(descriptor: int, end: int, samples: int) -> Columns:
    """Compressed or not, labels and sources are the last of a block, and laid out as in a plain one."""
    start = end - layout.block_bytes(samples)
    labels = os.pread(descriptor, samples * layout.LABEL_TYPE.itemsize, start + layout.labels_offset(samples))
    sources = os.pread(descriptor, samples * layout.SOURCE_TYPE.itemsize, start + layout.sources_data_offset(samples))
    return Columns(np.frombuffer(labels, layout.LABEL_TYPE), np.frombuffer(sources, layout.SOURCE_TYPE))
