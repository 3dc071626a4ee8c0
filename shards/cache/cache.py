"""The cache of a node: a folder of verified files, bounded in size, that all its processes and runs share.

A file's name says what its content must be. What bears such a name was complete and right when it got it, is checked
again by each process that opens it, and is made again where that fails; so nothing is synced to the disk: a power cut
costs a download, not a wrong sample. Files that a process has in use are never removed by another; of the rest the
least recently used goes first, by access time: the modification time tells whether the content was touched since it
was checked. Who uses what outlasts kill -9 (`shards.cache.shared_folder`).
"""

import os
import shutil
import time
import warnings
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from shards.cache.entry import Entry, make_at, touch, version_of, what_is_wrong
from shards.cache.leases import Survey
from shards.cache.shared_folder import SharedFolder
from shards.errors import DISK_FULL, CorruptShard, StorageError

__all__ = ["Cache", "Counts", "Entry"]

_LOOK_S = 0.01  # how often to look for a file that another process makes
_MAKER_POLL_S = 0.5  # how often to see whether that process lives
_ROOM_POLL_S = 0.1  # how often to look for room; 600 files of 17 users take 3.5 ms under the lock


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a cache object has done so far, and what it holds."""

    hits: int = 0
    """Files that were there, whole and right, when they were needed."""
    misses: int = 0
    """Files that had to be made or waited for when they were needed."""
    made: int = 0
    """Files made, ahead of use or not."""
    refetched: int = 0
    """Files found wrong and made again."""
    evicted: int = 0
    """Files removed to make room."""
    held_bytes: int = 0
    """Of the files that this object has in use or ahead of use."""


class _Claim(Enum):
    """What obtaining a file begins with."""

    PRESENT = auto()
    TO_MAKE = auto()
    BUSY = auto()
    """Another thread or process makes it."""
    FULL = auto()


class Cache:
    """One user of the folder. Its methods may be called from several threads; a forked process needs its own object."""

    def __init__(self, folder: Path, limit_bytes: int, *, wait_s: float = 120.0) -> None:
        """limit_bytes: of all files in the folder, unfinished ones too.

        wait_s: how long a file needed now waits for room, or for another process that makes it, while nothing moves.
        Raises: StorageError for a folder that cannot be used, or whose file system does not lock files.
        """
        self.folder = Path(os.path.abspath(folder))
        self.limit_bytes, self.wait_s = limit_bytes, wait_s
        self._shared = SharedFolder(self.folder, wait_s)
        self._right: dict[str, tuple[int, ...]] = {}  # key -> the version of the file whose content was checked
        self._sizes: dict[str, int] = {}
        self._counts = Counts()
        self._counting = Lock()
        with self._shared.locked():
            self._shared.survey()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """A snapshot."""
        leases = self._shared.leases
        held = sum(self._sizes[key] for key in {*leases.in_use, *leases.ahead})
        with self._counting:
            return replace(self._counts, held_bytes=held)

    def obtain(self, entry: Entry, *, ahead: bool) -> Path | None:
        """The file, whole and right.

        Needed now (ahead=False): made or waited for if need be, and in use until `release`: nobody removes it. Each
        such call needs a release of its own. Ahead of use: nobody removes it for the sake of another file ahead of use,
        though somebody who needs a file now may. None, and no hold on it, when another process is making it or when
        there is no room that only unused files take. Obtaining it again for use turns the hold into one for use.

        Raises: CorruptShard when it is wrong even when made again, StorageError when the disk refuses or there is no
        room, and whatever `item.make` raises.
        """
        self._refuse(entry)
        faults: list[str] = []
        deadline = _Deadline(self.wait_s)
        try:
            while not self._ready(claim := self._claim(entry, ahead), entry, ahead, faults):
                if claim in (_Claim.BUSY, _Claim.FULL):
                    if ahead:
                        return None
                    self._wait(claim, entry, deadline)
        finally:
            self._stop_waiting(entry.key)
        if not ahead:
            self._count(misses=1) if deadline.tried or claim is _Claim.TO_MAKE else self._count(hits=1)
        return self.folder / entry.key

    def release(self, key: str) -> None:
        """End one use, or else the hold ahead of use. Nothing happens without either."""
        if not self._shared.is_mine():
            return
        with self._shared.locked():
            leases = self._shared.leases
            self._shared.save(leases.drop(key, ahead=key not in leases.in_use))

    def close(self) -> None:
        """Release everything. Files being made by other threads are given up."""
        self._shared.close()

    def _refuse(self, entry: Entry) -> None:
        if not self._shared.is_mine():
            raise RuntimeError(f"{self.folder}: a cache does not survive a fork; make one in each process")
        if entry.size + entry.extra > self.limit_bytes:
            needed = f"{entry.key} needs {entry.size + entry.extra:,} bytes"
            raise StorageError(f"{self.folder}: {needed}, the cache may have {self.limit_bytes:,}; raise --cache-size")
        self._sizes[entry.key] = entry.size

    def _ready(self, claim: _Claim, entry: Entry, ahead: bool, faults: list[str]) -> bool:
        if claim is _Claim.PRESENT:
            return self._verify(entry, ahead, faults)
        return claim is _Claim.TO_MAKE and self._make(entry, ahead, faults)

    def _claim(self, entry: Entry, ahead: bool) -> _Claim:
        """Hold the file if it is there, else take it upon us to make it if there is room."""
        with self._shared.locked():
            leases = self._shared.leases
            if touch(self.folder / entry.key):
                self._shared.save(leases.hold(entry.key, ahead=ahead))
                return _Claim.PRESENT
            survey = self._shared.survey()
            if survey.maker(entry.key):
                return _Claim.BUSY
            if not self._make_room(entry, ahead, survey):
                self._shared.save(leases.wait(entry.key, waiting=not ahead))
                return _Claim.FULL
            self._shared.save(leases.hold(entry.key, ahead=ahead).make(entry.key, entry.size + entry.extra))
            return _Claim.TO_MAKE

    def _make_room(self, entry: Entry, ahead: bool, survey: Survey) -> bool:
        """Remove files until there is room, or nothing when that would not do."""
        if ahead and survey.waiting:
            return False  # or those who bring in files ahead of use would take the room that others wait for
        missing = survey.total + entry.size + entry.extra - self.limit_bytes
        victims = []
        for key in survey.victims(ahead=ahead):
            if missing <= 0:
                break
            victims.append(key)
            missing -= survey.files[key].st_size
        if missing > 0:
            return False
        for key in victims:
            (self.folder / key).unlink(missing_ok=True)
        self._count(evicted=len(victims))
        return True

    def _verify(self, entry: Entry, ahead: bool, faults: list[str]) -> bool:
        """Whether the file that is there, and held, is right; a wrong one is removed, as is the hold."""
        path = self.folder / entry.key
        version = version_of(path)
        if version is not None and self._right.get(entry.key) == version:
            return True
        try:
            wrong = what_is_wrong(entry, path)
        except BaseException:
            self._drop(entry.key, ahead)
            raise
        if wrong is None and version is not None:
            self._right[entry.key] = version
            return True
        if self._discard(entry.key, ahead, version):
            self._blame(f"{path}: {wrong}", faults)
        return False

    def _discard(self, key: str, ahead: bool, version: tuple[int, ...] | None) -> bool:
        """Remove this version of a file; False when there is another by now, or none."""
        with self._shared.locked():
            self._shared.save(self._shared.leases.drop(key, ahead=ahead))
            if version is None or version_of(self.folder / key) != version:
                return False
            (self.folder / key).unlink()
            return True

    def _drop(self, key: str, ahead: bool) -> None:
        """End a hold."""
        with self._shared.locked():
            self._shared.save(self._shared.leases.drop(key, ahead=ahead))

    def _make(self, entry: Entry, ahead: bool, faults: list[str]) -> bool:
        """Make the file, whose room is set aside; False when what was made is wrong."""
        partial = self._shared.partial(entry.key)
        try:
            wrong = make_at(entry, partial)
            if wrong is None:
                self._publish(entry.key, partial)
                return True
        except OSError as error:
            self._give_up(entry.key, ahead)
            raise StorageError(self._refused(entry, error)) from error
        except BaseException:
            self._give_up(entry.key, ahead)
            raise
        self._give_up(entry.key, ahead)
        self._blame(f"{self.folder / entry.key}: as made just now: {wrong}", faults)
        return False

    def _publish(self, key: str, partial: Path) -> None:
        """Give a file its final name."""
        with self._shared.locked():
            version = version_of(partial)
            partial.rename(self.folder / key)
            self._shared.save(self._shared.leases.made(key))
        self._shared.remove_partial(key)
        if version is not None:
            self._right[key] = version
        self._count(made=1)

    def _give_up(self, key: str, ahead: bool) -> None:
        """Remove the unfinished file, then the room set aside for it and the hold."""
        self._shared.remove_partial(key)
        if not self._shared.closed:
            with self._shared.locked():
                self._shared.save(self._shared.leases.made(key).drop(key, ahead=ahead))

    def _blame(self, fault: str, faults: list[str]) -> None:
        """The first fault is made good and told; after the second there is nothing to try."""
        faults.append(fault)
        if len(faults) > 1:
            remedy = "the stored shard is damaged, or this machine's disk or memory: run `python -m tools verify` on it"
            raise CorruptShard(f"{fault}; made again after: {faults[0]}; {remedy}")
        self._count(refetched=1)
        warnings.warn(f"{fault}; making it again", RuntimeWarning, stacklevel=2)

    def _wait(self, claim: _Claim, entry: Entry, deadline: "_Deadline") -> None:
        """A moment, or an error when nothing has moved for too long."""
        if deadline.spent((claim, self._shared.progress())):
            raise StorageError(self._no_room(entry) if claim is _Claim.FULL else self._stuck(entry))
        until = time.monotonic() + (_ROOM_POLL_S if claim is _Claim.FULL else _MAKER_POLL_S)
        while time.monotonic() < until and not (self.folder / entry.key).exists():
            time.sleep(_LOOK_S)

    def _stop_waiting(self, key: str) -> None:
        if key in self._shared.leases.waiting and not self._shared.closed:
            with self._shared.locked():
                self._shared.save(self._shared.leases.wait(key, waiting=False))

    def _refused(self, entry: Entry, error: OSError) -> str:
        if error.errno not in DISK_FULL:
            return f"{self.folder / entry.key}: cannot be made: {error}"
        free = shutil.disk_usage(self.folder).free
        found = f"{entry.size + entry.extra:,} bytes needed, {free:,} free"
        return f"{self.folder / entry.key}: {error.strerror}: {found}; free some space or lower --cache-size"

    def _no_room(self, entry: Entry) -> str:
        with self._shared.locked():
            survey = self._shared.survey()
        taken, needed = survey.taken(), entry.size + entry.extra
        found = f"{taken:,} of {self.limit_bytes:,} are in use or being made ({survey.holders()})"
        remedy = f"give a --cache-size of {taken + needed:,} or more"
        return f"{self.folder}: no room in {self.wait_s:g} s for {entry.key}, {needed:,} bytes: {found}; {remedy}"

    def _stuck(self, entry: Entry) -> str:
        with self._shared.locked():
            maker = self._shared.survey().maker(entry.key)
        who = "another process" if maker is None else f"process {maker.pid}"
        found = f"{who} is making it and has written nothing for {self.wait_s:g} s"
        return f"{self.folder / entry.key}: {found}; end that process and start again"

    def _count(self, **more: int) -> None:
        with self._counting:
            sums = {name: getattr(self._counts, name) + count for name, count in more.items()}
            self._counts = replace(self._counts, **sums)


class _Deadline:
    """Ends when the same sign has been seen for too long."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._sign: object = None
        self._since = 0.0
        self.tried = False

    def spent(self, sign: object) -> bool:
        if sign != self._sign:
            self._sign, self._since = sign, time.monotonic()
        self.tried = True
        return time.monotonic() - self._since > self._limit_s
