"""A folder that processes share, with a record of who uses what that survives kill -9 (`shards.cache.names`).

A lease on a finished file is taken without the folder's lock: its user has the file itself locked, together with
others, while it writes the lease down; who removes a finished file has that file locked alone, and then finds all
leases on it. So whoever only uses files never waits for those who make some.

A killed process loses its locks. Whoever surveys the folder next can lock its mark, which proves that the user is dead,
and removes all that it left. A user keeps one file open, and opens two more for a moment, however many files it holds.
What the finished files are for is up to the cache (`shards.cache.cache`).
"""

import errno
import os
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.cache.entry import beside
from shards.cache.leases import Leases, Survey
from shards.cache.ledger import Ledger, read_ledger, spoil_ledger, write_ledger
from shards.cache.names import (
    KEY,
    LEASE_NAME,
    LOCK_NAME,
    MARK_NAME,
    PARTIAL_NAME,
    lease_path,
    leased_key,
    mark_path,
    partial_path,
    waiting_path,
)
from shards.cache.own_leases import OwnLeases
from shards.errors import StorageError
from shards.output.lock import is_named, leave_in_children, open_locked, try_lock, unlock
from shards.regular_files import open_regular

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks answer
_LOCK_POLL_S = 0.002  # flock has no timeout of its own, so a process polls; the lock is held for milliseconds
_MARK = b'{"version": 2}'  # of the leases; version 1 had all leases of a user as JSON here, and refuses this


class SharedFolder:
    """One user's access to a folder that other processes use too."""

    def __init__(self, path: Path, wait_s: float) -> None:
        """wait_s: seconds to wait for the folder's lock. Others need it for milliseconds unless they are suspended.

        Raises: StorageError if the folder cannot be made, written or locked.
        """
        self.path = path
        self._wait_s = wait_s
        self._owner = os.getpid()
        self._user = f"{self._owner}-{secrets.token_hex(4)}"
        self._mark = mark_path(path, self._user)
        self._close_file: weakref.finalize[[int], SharedFolder] | None = None
        self._descriptor = self._lock_descriptor = -1
        self._known: Ledger | None = None
        self._mutex = threading.Lock()
        self.closed = False
        self.own = OwnLeases(path, self._user)
        with self.locked():
            self._refuse_blind_locks()
        leave_in_children(self)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within this context no other process makes or removes finished files.

        Raises: StorageError if the disk fails within it, RuntimeError once closed.
        """
        # The mutex spares the threads of this process the polling for the file's lock.
        with self._mutex, _explained(self.path):
            self._lock_descriptor = self._take_lock()
            try:
                self._known = read_ledger(self._lock_descriptor)
                self._appear()
                yield
            finally:
                unlock(self._lock_descriptor)

    @property
    def ledger(self) -> Ledger:
        """How much room is taken, and who uses the folder. Only while locked."""
        if self._known is None:
            self.survey()
        assert self._known is not None  # noqa: S101  (a survey ends in a ledger)
        return self._known

    def survey(self) -> Survey:
        """Look at everything, and remove what dead users have left. Only while locked."""
        names = _names(self.path)
        marks = filter(None, map(MARK_NAME.fullmatch, names))
        users = {match[1]: Leases(pid=_pid(match[1])) for match in marks if _is_alive(self.path / match[0])}
        # After the users: leases and unfinished files without a living user are a dead user's, and their room is free.
        for match in filter(None, map(LEASE_NAME.fullmatch, names)):
            _add_lease(self.path / match[0], users.get(match[1]), match[2], leased_key(match))
        for match in filter(None, map(PARTIAL_NAME.fullmatch, names)):
            if match[2] not in users:
                (self.path / match[0]).unlink(missing_ok=True)
        found = Survey(files=_regular_files(self.path, filter(KEY.fullmatch, names)), users=users)
        self._write(Ledger(found.total, tuple(users)))
        return found

    def hold(self, key: str, *, ahead: bool) -> bool:
        """One hold more on a finished file, which now counts as used last; False if there is none. Needs no lock."""
        if self.closed:
            raise RuntimeError(f"{self.path}: this cache is closed")
        with _explained(self.path), suppress(FileNotFoundError):
            if not is_named(self._descriptor, self._mark):
                return False  # the folder was removed, so nobody would see the lease
            descriptor = open_regular(self.path / key)
            try:
                # Refused, or without its name: somebody is removing it at this moment.
                if try_lock(descriptor, shared=True) and is_named(descriptor, self.path / key):
                    self.own.hold(key, ahead=ahead)
                    _touch(descriptor)
                    return True
            finally:
                unlock(descriptor)
        return False

    def drop(self, key: str, *, ahead: bool) -> None:
        """One hold less, if there is any. Needs no lock."""
        with _explained(self.path):
            self.own.drop(key, ahead=ahead)

    def is_held(self, key: str, *, ahead: bool) -> bool:
        """Whether anybody, perhaps a dead user, needs a file now or, with `ahead`, later. Only while locked."""
        kinds = ("use", "ahead") if ahead else ("use",)
        users = self.ledger.users
        return any(os.path.exists(lease_path(self.path, user, kind, key)) for user in users for kind in kinds)

    def maker(self, key: str) -> int | None:
        """The process that is making a file; None if nobody is. Only while locked."""
        for user in self.ledger.users:
            if os.path.exists(lease_path(self.path, user, "make", key)):
                if _is_alive(mark_path(self.path, user)):
                    return _pid(user)
                self.survey()  # removes what it left
        return None

    def anybody_waits(self) -> bool:
        """Whether somebody needs a file now and finds no room for it. Only while locked."""
        marked = (user for user in self.ledger.users if os.path.exists(waiting_path(self.path, user)))
        return any(_is_alive(mark_path(self.path, user)) for user in marked)

    def reserve(self, key: str, size: int, *, ahead: bool) -> None:
        """Hold a file that this user is going to make, with room of this size. Only while locked."""
        with self._changed(size):
            self.own.make(key, size, ahead=ahead)

    def publish(self, key: str, size: int) -> None:
        """Give a file of this size that this user has made its final name. Only while locked.

        So nobody sees both the file and the room reserved for it, or neither.
        """
        with self._changed(size - self.own.making[key]):
            self.partial(key).rename(self.path / key)
            self.own.made(key)

    def give_up(self, key: str) -> None:
        """End the reservation for a file that this user has not made. Only while locked."""
        with self._changed(-self.own.making[key]):
            self.own.made(key)

    def remove(self, key: str, *, ahead: bool) -> int:
        """Remove a finished file unless somebody needs it now or, with `ahead`, later. Only while locked.

        Returns its bytes, 0 if it stays.
        """
        with suppress(FileNotFoundError):
            descriptor = open_regular(self.path / key)
            try:
                if try_lock(descriptor) and not self.is_held(key, ahead=ahead):
                    return self.discard(key)
            finally:
                unlock(descriptor)
        return 0

    def discard(self, key: str) -> int:
        """Remove a finished file whoever holds it. Only while locked. Returns its bytes."""
        size = (self.path / key).stat().st_size
        with self._changed(-size):
            (self.path / key).unlink()
        return size

    def partial(self, key: str) -> Path:
        """Where this user makes a file."""
        return partial_path(self.path, self._user, key)

    def remove_partial(self, key: str) -> None:
        """Remove what this user has made of a file so far."""
        for path in (self.partial(key), beside(self.partial(key))):
            path.unlink(missing_ok=True)

    def progress(self) -> object:
        """A value that changes as long as anybody writes to an unfinished file."""
        found = _regular_files(self.path, filter(PARTIAL_NAME.fullmatch, _names(self.path))).items()
        # Blocks and not sizes: `unpack_shard` gives a file its full size before its first byte.
        return {name: (stats.st_mtime_ns, stats.st_blocks) for name, stats in found}

    def is_mine(self) -> bool:
        """Whether this process made the object; False in a fork's child, whose parent did."""
        return os.getpid() == self._owner

    def close(self) -> None:
        """Give up all leases."""
        if self.closed or not self.is_mine():
            return
        try:
            # Under the folder's lock, so that no survey takes this user for one that was killed.
            with self.locked():
                taken, users = self.ledger
                spoil_ledger(self._lock_descriptor)
                self.own.remove_all()
                self._mark.unlink(missing_ok=True)
                others = tuple(user for user in users if user != self._user)
                self._write(Ledger(max(0, taken - sum(self.own.making.values())), others))
        finally:
            self.closed = True
            self.leave()

    def leave(self) -> None:
        """Close this process's copy of the mark; the lock stays if the parent of a fork still has it open."""
        if self._close_file is not None:
            self._close_file()

    @contextmanager
    def _changed(self, difference: int) -> Iterator[None]:
        """While the folder changes, so that `difference` more bytes are taken.

        If the change fails, or the process is killed, the ledger says nothing, and the next one surveys.
        """
        before, self._known = self.ledger, None
        spoil_ledger(self._lock_descriptor)
        yield
        self._write(before._replace(taken=max(0, before.taken + difference)))

    def _write(self, ledger: Ledger) -> None:
        self._known = ledger
        write_ledger(self._lock_descriptor, ledger)

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
        if self._descriptor >= 0 and is_named(self._descriptor, self._mark):
            return
        descriptor = os.open(self._mark, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self.leave()
        self._descriptor = descriptor
        self._close_file = weakref.finalize(self, os.close, descriptor)
        # Cannot fail: the name is new, and surveys, which try the lock, need the folder's lock that is held here.
        try_lock(descriptor)
        os.pwrite(descriptor, _MARK, 0)
        self.own.write_all()
        self.survey()

    def _refuse_blind_locks(self) -> None:
        """Raise OSError if a second descriptor can lock a locked file: some network file systems grant every lock."""
        if not _is_alive(self._mark):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _is_alive(mark: Path) -> bool:
    """Whether a user is alive; if not, its mark is removed.

    The file is locked as long as its user lives, so a lock that can be taken proves that the user is dead.
    """
    try:
        descriptor = os.open(mark, os.O_RDWR)
    except FileNotFoundError:  # somebody removes the whole folder
        return False
    try:
        if try_lock(descriptor):
            mark.unlink(missing_ok=True)
            return False
        found = os.pread(descriptor, len(_MARK) + 1, 0)
    finally:
        os.close(descriptor)
    if found != _MARK:
        who = f"process {mark.name.split('.')[-1].partition('-')[0]} uses this folder with another version of kkanji"
        raise StorageError(
            f"{mark}: not understood ({found!r}); {who}: give each its own KKANJI_CACHE, or end that process"
        )
    return True


def _add_lease(path: Path, leases: Leases | None, kind: str | None, key: str) -> None:
    """Add what a lease's file says to its user's leases; without a living user the file is removed."""
    if leases is None:
        path.unlink(missing_ok=True)
    elif kind == "use":
        leases.in_use.add(key)
    elif kind == "ahead":
        leases.ahead.add(key)
    elif kind == "make":
        with suppress(FileNotFoundError):
            leases.making[key] = path.stat().st_size
    else:
        leases.waiting = True


def _touch(descriptor: int) -> None:
    """Mark a file as used just now.

    Access times are set by hand, as most systems mount their disks with `relatime` or `noatime`.
    """
    # The modification time must stay as it is: it is part of the version that spares a second verification.
    os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))


def _pid(user: str) -> int:
    return int(user.partition("-")[0])


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def _regular_files(folder: Path, names: Iterable[str]) -> dict[str, os.stat_result]:
    """The status of those that are regular files, by name."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError):  # removed since it was listed
            found[name] = os.stat(folder / name, follow_symlinks=False)
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
