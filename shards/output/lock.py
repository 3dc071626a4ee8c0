"""Locks that end with their process, however it ends: flock, through this module alone."""

import fcntl
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from shards.errors import InputError, StorageError
from shards.regular_files import reading

LOCK_NAME = ".lock"
MOST_NAME_BYTES = 512  # read from a lock file for the name of its holder


class FolderLock:
    """Reserves a folder for one process: `with FolderLock(folder):`. Others are refused at once and learn its holder.

    The lock is on the file `.lock` inside. The file names its holder, because the kernel does not when the holder runs
    on another machine. Folders that were made for the lock and are still empty at the end are removed again.

    Raises: InputError while another process has it, StorageError if the file cannot be made, written or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LOCK_NAME
        self._made: list[Path] = []
        self._descriptor = -1

    def __enter__(self) -> Self:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file, expected a folder or nothing; choose another --output")
        try:
            self._made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self._descriptor = self._take()
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _name(os.getpid()).encode(), 0)
        except BlockingIOError:
            raise in_use(self.folder, self._path) from None
        except OSError as error:
            self.leave()
            remedy = "choose a folder on a disk that can be written and that locks files"
            raise StorageError(f"{self.folder}: cannot be locked: {error}; {remedy}") from error
        leave_in_children(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor < 0:  # a fork's child
            return
        if is_named(self._descriptor, self._path):
            with suppress(OSError):
                self._path.unlink()
                for folder in self._made:
                    folder.rmdir()
        unlock(self._descriptor)
        self._descriptor = -1

    def leave(self) -> None:
        """Close this process's copy of the file; the lock stays if the parent of a fork still has it open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self) -> int:
        while True:  # until no earlier holder removes the file, or the folder, between opening and locking it
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                descriptor = open_locked(self._path)
                if descriptor is not None:
                    return descriptor


def open_locked(path: Path, *, wait: bool = False) -> int | None:
    """A new descriptor of the file, which is made if need be, locked for this process alone.

    None if another process removed the file before it was locked: a lock on it would exclude nobody, so try again.
    wait: wait while another process has the lock; otherwise BlockingIOError is raised. Raises: OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    locked = False
    try:
        if wait:
            wait_for_lock(descriptor)
        elif not try_lock(descriptor):
            raise BlockingIOError(f"{path} is locked")
        locked = is_named(descriptor, path)
    finally:
        if not locked:
            os.close(descriptor)
    return descriptor if locked else None


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder for this process alone. Returns False if another process has it locked.

    shared: together with others that share it.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def wait_for_lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file once no other process has it locked. shared: together with others that share it."""
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def unlock(descriptor: int) -> None:
    """Unlock and close. Closing alone would not unlock if a fork copied the descriptor a moment ago."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_named(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class Leaver(Protocol):
    """An object with an open, locked file."""

    def leave(self) -> None:
        """Close this process's copy of the file."""


# A fork copies open files, and a file stays locked until every copy is closed: the child's must not outlive the parent.
_leavers: "weakref.WeakSet[Leaver]" = weakref.WeakSet()


def leave_in_children(lock: Leaver) -> None:
    """Call `lock.leave()` in every process that this one forks."""
    _leavers.add(lock)


def _leave_all() -> None:
    for lock in list(_leavers):
        lock.leave()


os.register_at_fork(after_in_child=_leave_all)


def in_use(output: Path, locked: Path) -> InputError:
    """The error for an output that another process is writing. locked: the file or folder that it has locked."""
    who = holder(locked) or _named_holder(locked) or "another process"
    return InputError(f"{output}: {who} is writing it; wait for it or choose another --output")


def holder(path: Path) -> str | None:
    """The process that has locked a file or folder, if this machine's kernel knows it (/proc/locks, proc(5))."""
    with suppress(OSError):
        found = path.stat()
        file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            kind, pid, locked = (line.split()[column] for column in (1, 4, 5))
            if kind == "FLOCK" and locked == file and int(pid) > 0:
                return _name(int(pid))
    return None


def _named_holder(path: Path) -> str:
    """The holder's name as the lock file has it: the process may run on another machine."""
    with suppress(OSError), reading(path) as file:
        text = file.read(MOST_NAME_BYTES).decode(errors="replace")
        return "".join(letter for letter in text if letter.isprintable())
    return ""


def _name(pid: int) -> str:
    return f"process {pid} on {socket.gethostname()}"
