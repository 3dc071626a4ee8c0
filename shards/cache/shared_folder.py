"""A folder that processes share, and which of their files means what.

Each user has a small file in the folder that says what it holds, locked (flock) for as long as the user lives. A killed
process loses its locks: whoever looks next removes its file, and with it the unfinished files that bear its name. All
of this is read and written under one lock of the whole folder, held for milliseconds. A user has one file open for good
and one more for a moment, however many files it holds. What the files are for is the cache's business
(`shards.cache.cache`).
"""

import errno
import os
import re
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.cache.leases import Leases, Survey
from shards.errors import StorageError
from shards.output.lock import is_named, leave_in_children, open_locked, try_lock, unlock

LOCK_NAME = ".lock"
KEY = re.compile(r"[0-9a-f]{64}\.[a-z0-9][a-z0-9.]*")
_USER = r"\d+-[0-9a-f]{8}"
_LEASE_NAME = re.compile(rf"\.pins\.({_USER})")
_PARTIAL_NAME = re.compile(rf"\.({KEY.pattern})\.({_USER})\.partial.*")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LOCK_POLL_S = 0.002


class SharedFolder:
    """One user's access to a folder that others use too."""

    def __init__(self, path: Path, wait_s: float) -> None:
        """wait_s: how long another process may keep the folder's lock, which takes milliseconds unless it is stopped.

        Raises: StorageError for a folder that cannot be made, written or locked.
        """
        self.path = path
        self._wait_s = wait_s
        self._owner = os.getpid()
        self._token = f"{self._owner}-{secrets.token_hex(4)}"
        self._lease_path = path / f".pins.{self._token}"
        self._saved = b""
        self._close_file: weakref.finalize[[int], SharedFolder] | None = None
        self._descriptor = -1
        self._mutex = threading.Lock()
        self.closed = False
        self.leases = Leases(pid=self._owner)
        with self.locked():
            self._refuse_blind_locks()
        leave_in_children(self)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else looks at the folder or changes it meanwhile.

        Raises: StorageError for whatever the disk refuses meanwhile, RuntimeError once closed.
        """
        with self._mutex, _explained(self.path):
            descriptor = self._take_lock()
            try:
                self._appear()
                yield
            finally:
                unlock(descriptor)

    def save(self, leases: Leases) -> None:
        """Have all others know what this user holds. Only while locked; a disk that refuses leaves it as it was."""
        data = leases.to_json()
        try:
            _overwrite(self._descriptor, data)
        except OSError:
            _overwrite(self._descriptor, self._saved)  # takes no new room
            raise
        self._saved, self.leases = data, leases

    def survey(self) -> Survey:
        """Look at everything, and remove what dead users left. Only while locked."""
        entries = _regular_files(self.path)
        lease_names = filter(None, map(_LEASE_NAME.fullmatch, entries))
        users = {
            match[1]: leases for match in lease_names if (leases := _live_leases(self.path / match[0])) is not None
        }
        for match in filter(None, map(_PARTIAL_NAME.fullmatch, entries)):
            if match[2] not in users:
                (self.path / match[0]).unlink(missing_ok=True)
        files = {name: found for name, found in entries.items() if KEY.fullmatch(name)}
        return Survey(files=files, users=users)

    def partial(self, key: str) -> Path:
        """Where this user makes a file. Names that go on after this one are its own too."""
        return self.path / f".{key}.{self._token}.partial"

    def remove_partial(self, key: str) -> None:
        """Remove what was made so far."""
        start = self.partial(key).name
        for name in _regular_files(self.path):
            if name.startswith(start):
                (self.path / name).unlink(missing_ok=True)

    def progress(self) -> object:
        """Something that changes as long as anybody writes an unfinished file."""
        found = _regular_files(self.path).items()
        return {name: (stats.st_mtime_ns, stats.st_blocks) for name, stats in found if _PARTIAL_NAME.fullmatch(name)}

    def is_mine(self) -> bool:
        """Whether this process made the object, rather than a fork's parent."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Hold nothing any more."""
        if self.closed or not self.is_mine():
            return
        try:
            with self.locked():
                self._lease_path.unlink(missing_ok=True)
        finally:
            self.closed = True
            self.leave()

    def leave(self) -> None:
        """Close this process's file, which unlocks it unless a fork's parent has it open too."""
        if self._close_file is not None:
            self._close_file()

    def _take_lock(self) -> int:
        """The descriptor of the folder's lock, which is made anew when somebody removed the folder."""
        deadline = time.monotonic() + self._wait_s
        while True:
            if self.closed:
                raise RuntimeError(f"{self.path}: this cache is closed")
            self.path.mkdir(parents=True, exist_ok=True)
            with suppress(BlockingIOError, FileNotFoundError):
                descriptor = open_locked(self.path / LOCK_NAME)
                if descriptor is not None:
                    return descriptor
            if time.monotonic() > deadline:
                found = f"locked by another process for {self._wait_s:g} s"
                raise StorageError(f"{self.path / LOCK_NAME}: {found}; `fuser` names it: end it and start again")
            time.sleep(_LOCK_POLL_S)

    def _appear(self) -> None:
        """Be among the users, again if somebody removed the folder."""
        if self._descriptor >= 0 and is_named(self._descriptor, self._lease_path):
            return
        self.leave()
        self._descriptor = os.open(self._lease_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._close_file = weakref.finalize(self, os.close, self._descriptor)
        try_lock(self._descriptor)
        self.save(self.leases)

    def _refuse_blind_locks(self) -> None:
        """Some network file systems grant every lock to everybody."""
        if _live_leases(self._lease_path) is None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _live_leases(path: Path) -> Leases | None:
    """What a user holds; None for a dead one, whose file is removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # somebody removes the whole folder
        return None
    try:
        if try_lock(descriptor):
            path.unlink(missing_ok=True)
            return None
        return Leases.from_json(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    except (ValueError, TypeError, KeyError) as error:
        remedy = "another version of kkanji uses this folder: give each its own, or end that process"
        raise StorageError(f"{path}: not understood ({error}); {remedy}") from error
    finally:
        os.close(descriptor)


def _overwrite(descriptor: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], written)
    os.ftruncate(descriptor, len(data))


def _regular_files(folder: Path) -> dict[str, os.stat_result]:
    """Name -> what the disk says of it."""
    found = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed since it was listed
                found[entry.name] = entry.stat(follow_symlinks=False)
    return {name: stats for name, stats in found.items() if stat.S_ISREG(stats.st_mode)}


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_LOCKS:
            remedy = "some network file systems cannot: choose a folder on a local disk as cache"
            raise StorageError(f"{folder}: its file system does not lock files ({error.strerror}); {remedy}") from error
        remedy = "choose another folder as cache, or free some space"
        raise StorageError(f"{folder}: cannot be used as a cache: {error}; {remedy}") from error
