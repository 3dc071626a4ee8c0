"""What one user of a shared folder holds: in memory, and as one file for each lease, where others see it."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shards.cache.names import lease_path, waiting_path


class OwnLeases:
    """The leases of this process. Any thread may call the methods; each touches one or two files.

    Raises: OSError if the disk fails; the leases then are as before.
    """

    def __init__(self, folder: Path, user: str) -> None:
        self._folder, self._user = folder, user
        self._uses: Counter[str] = Counter()  # key -> how often it was obtained and not yet released
        self._ahead: set[str] = set()
        self.making: dict[str, int] = {}
        """Key of each file that is being made -> bytes reserved for it."""
        self.waiting: set[str] = set()
        """Keys of the files that are needed now and for which there is no room."""
        self._mutex = threading.Lock()

    def is_in_use(self, key: str) -> bool:
        """Whether a file is needed now."""
        return key in self._uses

    def hold(self, key: str, *, ahead: bool) -> None:
        """One hold more. A file that comes into use is no longer held ahead: one hold has become the other."""
        with self._mutex:
            if not ahead:
                # Counted, since several threads may read one file: the first to release it must not free it for all.
                if key not in self._uses:
                    _create(self._path("use", key))
                self._uses[key] += 1
                self._end_ahead(key)
            elif key not in self._ahead:
                _create(self._path("ahead", key))
                self._ahead.add(key)

    def drop(self, key: str, *, ahead: bool) -> None:
        """One hold less, if there is any."""
        with self._mutex:
            if ahead:
                self._end_ahead(key)
            elif self._uses[key] > 1:
                self._uses[key] -= 1
            elif self._uses.pop(key, 0):
                _remove(self._path("use", key))

    def make(self, key: str, size: int, *, ahead: bool) -> None:
        """Reserve room for a file to be made, and hold it."""
        _create(self._path("make", key), size)
        try:
            self.hold(key, ahead=ahead)
        except OSError:
            _remove(self._path("make", key))
            raise
        self.making[key] = size

    def made(self, key: str) -> None:
        """End the reservation."""
        _remove(self._path("make", key))
        del self.making[key]

    def wait(self, key: str, *, waiting: bool) -> None:
        """State that a file waits for room, or does so no longer."""
        with self._mutex:
            if not waiting:
                self.waiting.discard(key)
                if not self.waiting:
                    _remove(waiting_path(self._folder, self._user))
            else:
                if not self.waiting:
                    _create(waiting_path(self._folder, self._user))
                self.waiting.add(key)

    def write_all(self) -> None:
        """Write all leases down once more, in a folder that somebody has emptied."""
        with self._mutex:
            for path, size in self._all():
                _create(path, size)

    def remove_all(self) -> None:
        """Remove the files of all leases."""
        with self._mutex:
            for path, _ in self._all():
                _remove(path)

    def _all(self) -> Iterator[tuple[str, int]]:
        yield from ((self._path("use", key), 0) for key in self._uses)
        yield from ((self._path("ahead", key), 0) for key in self._ahead)
        yield from ((self._path("make", key), size) for key, size in self.making.items())
        yield from ((waiting_path(self._folder, self._user), 0) for _ in list(self.waiting)[:1])

    def _end_ahead(self, key: str) -> None:
        if key in self._ahead:
            self._ahead.discard(key)
            _remove(self._path("ahead", key))

    def _path(self, kind: str, key: str) -> str:
        return lease_path(self._folder, self._user, kind, key)


def _create(path: str, size: int = 0) -> None:
    """An empty file, or a hole of this size, which takes no room on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        if size:
            os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):  # somebody has removed the whole folder
        os.unlink(path)
