"""Files to be cached that remember how often they were made, and short ways to use a cache."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from shards.cache.cache import Cache, Entry

SIZE = 100


class Source:
    """Makes items of 100 bytes and remembers how often each was made."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.spoilt: list[int] = []
        """Numbers whose next makes go wrong."""
        self.checked: list[int] = []

    def entry(self, number: int, *, size: int = SIZE, extra: int = 0) -> Entry:
        data = bytes([number]) * size

        def make(path: Path) -> None:
            assert not path.exists()
            self.made.append(number)
            path.write_bytes(data if number not in self.spoilt else data[:-1] + b"!")
            if number in self.spoilt:
                self.spoilt.remove(number)

        def check(path: Path) -> str | None:
            self.checked.append(number)
            return None if path.read_bytes() == data else "block 000000 has another crc32"

        key = f"{hashlib.sha256(data).hexdigest()}.tar"
        return Entry(key=key, size=size, make=make, check=check, extra=extra)


OpenCache = Callable[..., Cache]


def use(cache: Cache, entry: Entry) -> Path:
    """Obtain and release."""
    path = cache.obtain(entry, ahead=False)
    assert path is not None
    cache.release(entry.key)
    return path


def finished(cache: Cache) -> set[str]:
    """Names of complete files."""
    return {path.name for path in cache.folder.iterdir() if not path.name.startswith(".")}


def keys(source: Source, *numbers: int) -> set[str]:
    return {source.entry(number).key for number in numbers}


def damage(path: Path, size: int = SIZE) -> None:
    """Other bytes, and the old modification time."""
    stats = path.stat()
    path.write_bytes(b"?" * size)
    os.utime(path, ns=(stats.st_atime_ns, stats.st_mtime_ns))
