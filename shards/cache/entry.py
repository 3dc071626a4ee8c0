"""A file of the cache: how it is made, and how it is verified."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.cache.names import KEY
from shards.errors import CorruptShard


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file that the cache can hold, and how to make it."""

    key: str
    """Name of the file: sha256 of the stored shard, a dot, and the form, `tar` or `plain.tar`."""
    size: int
    """Bytes of the file."""
    make: Callable[[Path], None]
    """Writes the file at a new path. It may use one more file, `beside` that path, which is removed too."""
    check: Callable[[Path], str | None]
    """Verifies the file at a path: returns what is wrong, None if nothing is."""
    extra: int = 0
    """Bytes of other files that exist while the file is made; 0 by default."""

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key) or self.size < 0 or self.extra < 0:
            found = f"key {self.key!r}, size {self.size}, extra {self.extra}"
            raise ValueError(f"{found}; expected a key of 64 hex digits, a dot and a form, and no size below 0")


def beside(path: Path) -> Path:
    """The other file that may be used while a file is made at a path."""
    return path.with_name(f"{path.name}.stored")


def make_at(entry: Entry, partial: Path) -> str | None:
    """Make a file and verify it. Returns what is wrong, also if `make` itself finds the damage; None if nothing is."""
    try:
        entry.make(partial)
    except CorruptShard as error:
        # Damage on the way is worth a second try, as damage on the disk is. Other errors end the attempt at once.
        return str(error)
    return what_is_wrong(entry, partial)


def what_is_wrong(entry: Entry, path: Path) -> str | None:
    """What is wrong with a file, None if nothing is. A file that the disk cannot read counts as damaged."""
    try:
        size = path.stat().st_size
        # The size first: it costs nothing, and a check reads the whole file.
        return f"{size} bytes, expected {entry.size}" if size != entry.size else entry.check(path)
    except OSError as error:
        return str(error)


def version_of(path: Path) -> tuple[int, ...] | None:
    """A value that changes when somebody writes or replaces the file; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    # The inode too: a file replaced within one tick of the clock has the same time and size.
    return found.st_ino, found.st_mtime_ns, found.st_size
