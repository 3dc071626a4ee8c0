"""A folder that processes share, with a record of who uses what that survives kill -9.

    <64 hexadecimal digits>.<form>     a finished file, which any user may read
    .<that name>.<user>.partial...     what this user is making
    .pins.<user>                       the user's leases as JSON, locked (flock) by the user as long as it lives
    .lock                              locked by the process that reads or changes any of this, for milliseconds

A killed process loses its locks. Whoever surveys the folder next can lock its leases file, which proves that the user
is dead, and removes it together with the user's unfinished files. A user keeps one file open, and opens one more for a
moment, however many files it holds. What the finished files are for is up to the cache (`shards.cache.cache`).
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
_LEASE_NAME = re.compile(rf"\.pins\.({_USER})")  # the name that other versions look for, which may use the folder too
_PARTIAL_NAME = re.compile(rf"\.({KEY.pattern})\.({_USER})\.partial.*")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks answer
_LOCK_POLL_S = 0.002  # flock has no timeout of its own, so a process polls; the lock is held for milliseconds


class SharedFolder:
    """One user's access to a folder that other processes use too."""

    def __init__(self, path: Path, wait_s: float) -> None:
        """wait_s: seconds to wait for the folder's lock. Others need it for milliseconds unless they are suspended.

        Raises: StorageError if the folder cannot be made, written or locked.
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
        """Within this context no other process looks at the folder or changes it.

        Raises: StorageError if the disk fails within it, RuntimeError once closed.
        """
        # The mutex spares the threads of this process the polling for the file's lock.
        with self._mutex, _explained(self.path):
            descriptor = self._take_lock()
            try:
                self._appear()
                yield
            finally:
                unlock(descriptor)

    def save(self, leases: Leases) -> None:
        """Let all others know what this user holds. Only while locked. If the disk fails, the old leases stay.

        Overwritten in place: a rename would leave the user's lock on the old file.
        """
        data = leases.to_json()
        try:
            _overwrite(self._descriptor, data)
        except OSError:
            _overwrite(self._descriptor, self._saved)  # needs no new room on the disk
            raise
        self._saved, self.leases = data, leases

    def survey(self) -> Survey:
        """Look at everything, and remove what dead users have left. Only while locked."""
        entries = _regular_files(self.path)
        lease_names = filter(None, map(_LEASE_NAME.fullmatch, entries))
        users = {
            match[1]: leases for match in lease_names if (leases := _live_leases(self.path / match[0])) is not None
        }
        # After the users: a partial file without a living user is a dead user's, and its room is free again.
        for match in filter(None, map(_PARTIAL_NAME.fullmatch, entries)):
            if match[2] not in users:
                (self.path / match[0]).unlink(missing_ok=True)
        files = {name: found for name, found in entries.items() if KEY.fullmatch(name)}
        return Survey(files=files, users=users)

    def partial(self, key: str) -> Path:
        """Where this user makes a file. Longer names that begin with this one are its own too."""
        return self.path / f".{key}.{self._token}.partial"

    def remove_partial(self, key: str) -> None:
        """Remove what this user has made of a file so far."""
        start = self.partial(key).name
        for name in _regular_files(self.path):
            if name.startswith(start):
                (self.path / name).unlink(missing_ok=True)

    def progress(self) -> object:
        """A value that changes as long as anybody writes to an unfinished file."""
        found = _regular_files(self.path).items()
        # Blocks and not sizes: `unpack_shard` gives a file its full size before its first byte.
        return {name: (stats.st_mtime_ns, stats.st_blocks) for name, stats in found if _PARTIAL_NAME.fullmatch(name)}

    def is_mine(self) -> bool:
        """Whether this process made the object; False in a fork's child, whose parent did."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Give up all leases."""
        if self.closed or not self.is_mine():
            return
        try:
            with self.locked():
                # Under the folder's lock, so that no survey takes this user for one that was killed.
                self._lease_path.unlink(missing_ok=True)
        finally:
            self.closed = True
            self.leave()

    def leave(self) -> None:
        """Close this process's copy of the leases file; the lock stays if the parent of a fork still has it open."""
        if self._close_file is not None:
            self._close_file()

    def _take_lock(self) -> int:
        """The descriptor of the folder's lock. The folder is made again if somebody has removed it."""
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
        """Make sure that this user is on record: it is not if somebody has removed the folder meanwhile."""
        if self._descriptor >= 0 and is_named(self._descriptor, self._lease_path):
            return
        self.leave()
        self._descriptor = os.open(self._lease_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._close_file = weakref.finalize(self, os.close, self._descriptor)
        # Cannot fail: the name is new, and surveys, which try the lock, need the folder's lock that is held here.
        try_lock(self._descriptor)
        self.save(self.leases)

    def _refuse_blind_locks(self) -> None:
        """Raise OSError if a second descriptor can lock a locked file: some network file systems grant every lock."""
        if _live_leases(self._lease_path) is None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _live_leases(path: Path) -> Leases | None:
    """What a user holds; None if the user is dead, and then its file is removed.

    The file is locked as long as its user lives, so a lock that can be taken proves that the user is dead.
    """
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
    os.ftruncate(descriptor, len(data))  # last: cut first, a full disk could leave neither the old nor the new leases


def _regular_files(folder: Path) -> dict[str, os.stat_result]:
    """The status of each regular file in the folder, by name."""
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
