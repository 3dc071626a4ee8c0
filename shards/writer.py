"""Writing: a folder that appears whole or not at all, and the shards inside it."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards import layout
from shards.errors import InputError, StorageError
from shards.manifest import CLASSES_NAME, MANIFEST_NAME, Block, Manifest, Shard


class Samples(NamedTuple):
    """n samples: images uint8 [n, 64, 64], labels [n], sources uint64 [n] (the original each image was made from)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]
    sources: NDArray[np.uint64]


class OutputFolder:
    """A folder written under a temporary name and renamed when complete.

    `with OutputFolder(path) as folder:` gives the temporary folder, `.NAME.partial` beside the final one. Leaving the
    block normally syncs and renames it; an exception removes it; a SIGKILL leaves it, and the next run clears it. Two
    processes cannot write one output: the lock (flock) is on the temporary folder and dies with its process.
    """

    def __init__(self, final: Path, *, overwrite: bool = False) -> None:
        self.final = final
        self.overwrite = overwrite
        self.partial = final.parent / f".{final.name}.partial"
        self._lock = -1

    def __enter__(self) -> Path:
        self._refuse_existing()
        self.partial.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        for entry in self.partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return self.partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)
            os.close(self._lock)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(_no_space(self.final, error)) from error

    def _refuse_existing(self) -> None:
        if self.final.exists() and not self.overwrite and (not self.final.is_dir() or any(self.final.iterdir())):
            raise InputError(f"{self.final}: already exists and is not empty; choose another --output or --overwrite")

    def _take_lock(self) -> None:
        self._lock = os.open(self.partial, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.fstat(self._lock).st_ino == self.partial.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:
            os.close(self._lock)
            raise InputError(f"{self.final}: another process is writing it; wait for it or choose another --output")

    def _commit(self) -> None:
        sync_folder(self.partial)
        self._refuse_existing()
        replaced = self.final.parent / f".{self.final.name}.replaced"
        if self.overwrite and self.final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self.final.rename(replaced)
        self.partial.rename(self.final)
        sync_folder(self.final.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def write_shard(path: Path, blocks: Iterable[Samples]) -> Shard:
    """Write one tar and its DALI index beside it; returns what the manifest says of it. Blocks have any sizes."""
    digest, table, position = hashlib.sha256(), [], 0
    with path.open("wb") as file:
        for number, block in enumerate(blocks):
            data = layout.encode_block(layout.block_key(number), *check_samples(block, path))
            table.append(_block(position, data, len(block.labels)))
            position += len(data)
            digest.update(data)
            file.write(data)
        digest.update(layout.end_of_archive())
        file.write(layout.end_of_archive())
        sync_file(file.fileno())
    index = layout.dali_index([(block.offset, block.samples) for block in table])
    write_file(path.with_suffix(".idx"), index)
    size = position + len(layout.end_of_archive())
    return Shard(name=path.name, bytes=size, sha256=digest.hexdigest(), blocks=tuple(table))


def write_manifest(folder: Path, manifest: Manifest, classes_json: str) -> None:
    """Complete a set: the class map, then, last, the manifest."""
    write_file(folder / CLASSES_NAME, classes_json)
    write_file(folder / MANIFEST_NAME, manifest.to_json())


def write_file(path: Path, content: str | bytes) -> None:
    """Write a small file so that it is old or new, never half: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.partial")
    data = content.encode() if isinstance(content, str) else content
    with temporary.open("wb") as file:
        file.write(data)
        sync_file(file.fileno())
    temporary.replace(path)


def shard_name(split: str, number: int) -> str:
    """`train-00000.tar`"""
    return f"{split}-{number:05d}.tar"


def check_samples(samples: Samples, path: Path) -> Samples:
    """Refuse arrays that do not belong into a shard."""
    images, labels, sources = samples
    expected = (len(labels), layout.IMAGE_SIZE, layout.IMAGE_SIZE)
    if images.dtype != np.uint8 or images.shape != expected or sources.shape != labels.shape:
        found = f"images {images.dtype} {images.shape}, labels {labels.shape}, sources {sources.shape}"
        raise InputError(f"{path}: found {found}; expected images uint8 {expected} with a label and a source each")
    if len(labels) == 0 or labels.min() < 0 or labels.max() > np.iinfo(layout.LABEL_TYPE).max:
        raise InputError(f"{path}: a block needs at least one sample, and labels from 0 on")
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


def _block(offset: int, data: bytes, samples: int) -> Block:
    return Block(offset=offset, bytes=len(data), samples=samples, crc32=layout.checksum(data))


def _no_space(path: Path, error: OSError) -> str:
    free = shutil.disk_usage(path.parent).free
    return f"{path}: no space left ({free / 1e6:.1f} MB free on its file system): {error.strerror}; free some or move"
