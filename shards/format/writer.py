"""Writing: a folder that appears whole or not at all, and the shards inside it."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import DISK_FULL, InputError, StorageError
from shards.format import layout, ustar
from shards.format.compression import compress_block
from shards.format.manifest import CLASSES_NAME, MANIFEST_NAME, Block, Compression, Manifest, Shard
from shards.format.manifest_rules import MOST_COMPRESSED, check_manifest
from shards.output.lock import holder
from shards.output.ownership import MARKER_NAME, destination, marker, remove_own


class Samples(NamedTuple):
    """n samples: images uint8 [n, 64, 64], labels [n], sources uint64 [n] (the original each image was made from)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]
    sources: NDArray[np.uint64]


class StoredBlock(NamedTuple):
    """A block as it goes into a tar: whole members with their headers and padding."""

    data: bytes
    samples: int
    plain_crc32: int | None = None
    """Of the packed block, where data is compressed."""


class OutputFolder:
    """A folder written under a temporary name and renamed when complete.

    `with OutputFolder(path) as folder:` gives the temporary folder, `.NAME.partial` beside the final one. Leaving the
    block normally syncs and renames it; an exception removes it; a SIGKILL leaves it, and the next run clears it. Two
    processes cannot write one output: the lock (flock) is on the temporary folder and dies with its process.

    Raises: InputError for an output that must not be replaced or is being written, StorageError when the disk refuses.
    """

    def __init__(
        self, final: Path, *, maker: str = "", inputs: Iterable[str | Path] = (), overwrite: bool = False
    ) -> None:
        """maker: the command, whose own output alone `overwrite` replaces; inputs: what it reads, never replaced."""
        self._destination = destination(final, maker, inputs, overwrite)
        self.final = self._destination.path
        self.partial = self.final.parent / f".{self.final.name}.partial"
        self._lock = -1

    def __enter__(self) -> Path:
        try:
            self._destination.check()
            self.partial.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._clear()
            self._destination.announce()
        except OSError as error:
            raise StorageError(f"{self.final}: cannot be written: {error}") from error
        return self.partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
            elif isinstance(error, OSError) and error.errno in DISK_FULL:
                raise StorageError(self._disk_full(error)) from error
            elif error is not None and not isinstance(error, Exception):  # Ctrl-C, SIGTERM
                error.add_note(f"{self.final}: not made: {self._written()} and removed again")
        except OSError as failure:
            raise StorageError(f"{self.final}: cannot be written: {failure}") from failure
        finally:
            self._discard()

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(self.partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = self._is_mine()
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            self._unlock()
            who = holder(self.partial) or "another process"
            raise InputError(f"{self.final}: {who} is writing it; wait for it or choose another --output")

    def _is_mine(self) -> bool:
        """Whether the temporary name still means the locked folder: once renamed, another process may take the name."""
        try:
            return os.path.samestat(os.fstat(self._lock), self.partial.stat())
        except FileNotFoundError:
            return False

    def _clear(self) -> None:
        """Remove what a killed run left, unless a run that has ended since the first look made the output."""
        try:
            self._destination.check()
            for entry in self.partial.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._is_mine():
            shutil.rmtree(self.partial, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _commit(self) -> None:
        place = self._destination
        if place.maker:
            write_file(self.partial / MARKER_NAME, marker(self.partial, place.maker))
        sync_folder(self.partial)
        place.check()
        replaced = place.make_way()
        self.partial.rename(self.final)
        sync_folder(self.final.parent)
        remove_own(replaced, place.maker)

    def _disk_full(self, error: OSError) -> str:
        free = shutil.disk_usage(self.partial).free
        found = f"{self._written()}, {free / 1e6:.1f} MB free"
        return f"{self.final}: {error.strerror}: {found}; free some space or choose another --output"

    def _written(self) -> str:
        files = [path.lstat() for path in self.partial.rglob("*")]
        return f"{sum(file.st_size for file in files) / 1e6:.1f} MB written in {len(files)} files"


def write_shard(path: Path, blocks: Iterable[Samples], *, compression: Compression = "none") -> Shard:
    """Write one packed tar and its DALI index; returns what the manifest says of it. Blocks have any sizes."""
    return write_tar(path, (encode_block(number, block, path, compression) for number, block in enumerate(blocks)))


def encode_block(number: int, block: Samples, path: Path, compression: Compression) -> StoredBlock:
    """A packed block as it goes into the tar at `path`. Raises InputError for what does not belong there."""
    key, plain = layout.block_key(number), layout.encode_block(layout.block_key(number), *check_samples(block, path))
    samples = len(block.labels)
    if compression == "none":
        return StoredBlock(plain, samples)
    if samples > MOST_COMPRESSED:
        raise InputError(f"{path}: a compressed block of {samples} images; expected {MOST_COMPRESSED} at most")
    return StoredBlock(compress_block(key, plain, samples, compression), samples, layout.checksum(plain))


def write_tar(path: Path, blocks: Iterable[StoredBlock]) -> Shard:
    """Write one tar of these blocks, whatever their layout, and its DALI index."""
    digest, table, position = hashlib.sha256(), [], 0
    with path.open("wb") as file:
        for block in blocks:
            table.append(_block(position, block))
            position += len(block.data)
            digest.update(block.data)
            file.write(block.data)
        digest.update(layout.end_of_archive())
        file.write(layout.end_of_archive())
        sync_file(file.fileno())
    archive = ustar.read_archive(path, max_member_bytes=ustar.MAX_SIZE)
    write_file(path.with_suffix(".idx"), ustar.dali_index(archive))
    return Shard(name=path.name, bytes=archive.bytes, sha256=digest.hexdigest(), blocks=tuple(table))


def write_manifest(folder: Path, manifest: Manifest, classes_json: str) -> None:
    """Complete a set: the class map, then, last, the manifest. Raises InputError for one that nobody could read."""
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST_NAME}: {error}") from error
    write_file(folder / CLASSES_NAME, classes_json)
    write_file(folder / MANIFEST_NAME, manifest.to_json())


def write_file(path: Path, content: str | bytes) -> None:
    """Write a small file so that it is old or new, never half."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name only when it is whole and on the disk: temporary name, fsync, rename.

    An error leaves what was there before, and an OSError names the file.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def shard_name(split: str, number: int) -> str:
    """`train-00000.tar`"""
    return f"{split}-{number:05d}.tar"


def check_samples(samples: Samples, path: Path) -> Samples:
    """Refuse arrays that do not belong into a shard."""
    images, labels, sources = samples
    shapes = ((labels.size, layout.IMAGE_SIZE, layout.IMAGE_SIZE), (labels.size,), (labels.size,))
    kinds = (images.dtype == np.uint8, labels.dtype.kind in "iu", sources.dtype == np.uint64)
    if (images.shape, labels.shape, sources.shape) != shapes or not all(kinds):
        found = ", ".join(f"{array.dtype} {array.shape}" for array in samples)
        raise InputError(f"{path}: found {found}; expected uint8 {shapes[0]}, a whole label and a uint64 source each")
    if labels.size == 0:
        raise InputError(f"{path}: a block without samples; expected at least one")
    if labels.min() < 0 or labels.max() > layout.MAX_LABEL:
        raise InputError(f"{path}: labels {labels.min()}..{labels.max()}; expected numbers from 0 on, below 2**31")
    return samples


def sync_file(descriptor: int) -> None:
    """Have the disk hold what was written."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the folder's names."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _block(offset: int, block: StoredBlock) -> Block:
    crc32 = layout.checksum(block.data)
    return Block(
        offset=offset, bytes=len(block.data), samples=block.samples, crc32=crc32, plain_crc32=block.plain_crc32
    )
