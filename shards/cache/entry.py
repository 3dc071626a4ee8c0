"""A file of the cache: how it is made, and how one knows that it is right."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.cache.shared_folder import KEY
from shards.errors import CorruptShard


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file that the cache can hold, and how to make it."""

    key: str
    """The file's name: sha256 of the stored shard, a dot, the form."""
    size: int
    """Bytes of the file."""
    make: Callable[[Path], None]
    """Writes the file at this path, where nothing is. Files beside it whose names only go on are cleared away too."""
    check: Callable[[Path], str | None]
    """None when the file's content is right, else what is wrong."""
    extra: int = 0
    """Bytes that making needs beside the file meanwhile."""

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key) or self.size < 0 or self.extra < 0:
            found = f"key {self.key!r}, size {self.size}, extra {self.extra}"
            raise ValueError(f"{found}; expected a key of 64 hex digits, a dot and a form, and no size below 0")


def make_at(entry: Entry, partial: Path) -> str | None:
    """What is wrong with what was made. Damage that making itself finds counts as such."""
    try:
        entry.make(partial)
    except CorruptShard as error:
        return str(error)
    return what_is_wrong(entry, partial)


def what_is_wrong(entry: Entry, path: Path) -> str | None:
    """A disk that cannot read its file back is as good as a wrong file."""
    try:
        size = path.stat().st_size
        return f"{size} bytes, expected {entry.size}" if size != entry.size else entry.check(path)
    except OSError as error:
        return str(error)


def touch(path: Path) -> bool:
    """Mark a file as used just now; False if there is none."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return True
    except FileNotFoundError:
        return False


def version_of(path: Path) -> tuple[int, ...] | None:
    """Changes when somebody writes or replaces the file; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
