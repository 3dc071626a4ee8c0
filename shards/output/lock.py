"""Locks that go with their process, however it ends (flock)."""

import fcntl
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from shards.errors import InputError, StorageError

LOCK_NAME = ".lock"
MOST_NAME_BYTES = 512  # of what a lock file says of its holder


class FolderLock:
    """Keeps a folder for one process: `with FolderLock(folder):`; others are refused at once and told who has it.

    The lock is on the file `.lock` inside, which says whose it is, as the kernel does not where that is another
    machine. A folder that was made for the lock and is still empty at the end is removed again.

    Raises: InputError while another process has it, StorageError where it cannot be made, written or locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LOCK_NAME
        self._made = False
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._made = not self.folder.exists()
            while not self._take():
                pass
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, _name(os.getpid()).encode(), 0)
        except OSError as error:
            self.leave()
            remedy = "choose a folder on a disk that can be written and that locks files"
            raise StorageError(f"{self.folder}: cannot be locked: {error}; {remedy}") from error
        _held.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor < 0:  # a fork's child
            return
        if is_named(self._descriptor, self._path):
            with suppress(OSError):
                self._path.unlink()
                if self._made:
                    self.folder.rmdir()
        # Closing would not unlock if a fork copied the descriptor just now.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.leave()

    def leave(self) -> None:
        """Close this process's file, which unlocks it unless a fork's parent has it open too."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self) -> bool:
        """False where the last holder removed the file, or the folder, just now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return False
        free = try_lock(self._descriptor)
        taken = free and is_named(self._descriptor, self._path)
        if not taken:
            self.leave()
        if not free:
            who = holder(self._path) or _named_holder(self._path) or "another process"
            raise InputError(f"{self.folder}: {who} is writing it; wait for it or choose another --output")
        return taken


# A fork copies open files, and a file stays locked until every copy is closed: the child's must not outlive the parent.
_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _leave_in_child() -> None:
    for lock in list(_held):
        lock.leave()


os.register_at_fork(after_in_child=_leave_in_child)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process alone; whether nobody else had it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def is_named(descriptor: int, path: Path) -> bool:
    """Whether the name still means the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def holder(path: Path) -> str | None:
    """Who has locked a file or folder, as far as this machine's kernel tells (/proc/locks, proc(5))."""
    with suppress(OSError):
        found = path.stat()
        file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            kind, pid, locked = (line.split()[column] for column in (1, 4, 5))
            if kind == "FLOCK" and locked == file and int(pid) > 0:
                return _name(int(pid))
    return None


def _named_holder(path: Path) -> str:
    """As the file says, where another machine's process wrote it."""
    with suppress(OSError), path.open("rb") as file:
        text = file.read(MOST_NAME_BYTES).decode(errors="replace")
        return "".join(letter for letter in text if letter.isprintable())
    return ""


def _name(pid: int) -> str:
    return f"process {pid} on {socket.gethostname()}"
