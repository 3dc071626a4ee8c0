"""Proof of one shard: every byte of it and of what lies beside it, and that they agree."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

from shards.checksums import crc32
from shards.errors import ChangedShard, CorruptShard, MissingShard, ShardError, StorageError
from shards.format import layout, ustar
from shards.format.columns import ShardColumns, read_image_columns, read_packed_columns
from shards.format.compression import unpack_shard
from shards.format.image_layout import read_table, table_problem
from shards.format.manifest import Compression, Manifest
from shards.format.shard_table import Shard
from shards.format.tar_headers import MAX_MEMBER_BYTES
from shards.regular_files import reading
from shards.store.retry import Workers
from shards.store.store import Store

PIECE_BYTES = 1 << 18
Progress = Callable[[int], object]


def fetched_files(tars: Store, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Path | ShardError]]:
    """Each shard of an object store as a file, or the error that explains why there is none.

    They are fetched one ahead of the one being checked, so two are on the disk at a time.
    """
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


def read_columns(store: Store, manifest: Manifest, shard: Shard, path: Path) -> ShardColumns:
    """Labels and sources of an undamaged shard."""
    return read_image_columns(store, shard) if manifest.layout == "image" else read_packed_columns(path, shard.blocks)


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
        with reading(path) as file:
            for number, block in enumerate(shard.blocks):
                found = 0
                for data in pieces(file, block.bytes):
                    digest.update(data)
                    found = crc32(data, found)
                    progress(len(data))
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


def pieces(file: BinaryIO, size: int) -> Iterator[memoryview]:
    """The next `size` bytes of a file, fewer at its end, in pieces; each is valid until the next one is taken.

    One buffer that stays in the processor's cache: reading whole blocks into new memory halves the rate.
    """
    buffer = memoryview(bytearray(PIECE_BYTES))
    while size and (count := file.readinto(buffer[: min(size, PIECE_BYTES)])):  # type: ignore[attr-defined]
        size -= count
        yield buffer[:count]


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
