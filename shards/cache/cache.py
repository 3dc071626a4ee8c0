"""The cache of a node: a folder of verified files, bounded in size, that all its processes and runs share.

A file's name says what its content must be. A file gets its name when it is complete and verified; every process that
opens it verifies it again, and makes it again if it is damaged. So nothing is synced to the disk: a power cut costs a
download, not a wrong sample. A process never removes a file that another one is using. Of the rest, the least recently
used goes first, by access time; the modification time shows whether the content was touched since it was verified. The
record of who uses what survives kill -9 (`shards.cache.shared_folder`).
"""

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import ceil
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from shards.cache.entry import Entry, make_at, version_of, what_is_wrong
from shards.cache.eviction import Unheld, choose
from shards.cache.shared_folder import SharedFolder
from shards.errors import DISK_FULL, CorruptShard, StorageError

__all__ = ["Cache", "Counts", "Entry"]

_LOOK_S = 0.01  # between two looks for a file that another process is making
_MAKER_POLL_S = 0.5  # between two checks that this process is alive; each takes the folder's lock
_ROOM_POLL_S = 0.1  # between two looks for room, each a survey under the lock


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a cache object has done so far."""

    hits: int = 0
    """Files that were in the cache, whole and undamaged, when they were needed."""
    misses: int = 0
    """Files that had to be made, or waited for, when they were needed."""
    made: int = 0
    """Files made, when they were needed or ahead of use."""
    refetched: int = 0
    """Files found damaged and made again."""
    evicted: int = 0
    """Files removed to make room."""


class _Claim(Enum):
    """The state in which a file is found when somebody wants it."""

    PRESENT = auto()
    """The file is in the folder, and now held; it still has to be verified."""
    TO_MAKE = auto()
    """It is missing, and there is room: this object has reserved the room and must make it."""
    BUSY = auto()
    """Another thread or process is making it."""
    FULL = auto()
    """It is missing, and there is no room for it."""


class Cache:
    """One user of the folder. Any thread may call its methods; a forked process needs an object of its own."""

    def __init__(self, folder: Path, limit_bytes: int, *, wait_s: float = 120.0) -> None:
        """limit_bytes: most bytes of all files in the folder together, unfinished ones included.

        wait_s: seconds without any progress after which a file that is needed now, and waits for room or for another
        process to make it, is given up.
        Raises: StorageError if the folder cannot be used, or its file system does not lock files.
        """
        self.folder = Path(os.path.abspath(folder))
        self.limit_bytes, self.wait_s = limit_bytes, wait_s
        self._shared = SharedFolder(self.folder, wait_s)
        self._right: dict[str, tuple[int, ...]] = {}  # key -> the version of the file that was verified
        self._unheld = Unheld(self._shared)
        self._counts = Counts()
        self._counting = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """The counts at this moment."""
        with self._counting:
            return self._counts

    def obtain(self, entry: Entry, *, ahead: bool, let_go: Callable[[], object] = lambda: None) -> Path | None:
        """The path of the file, whole and verified; the file is made if it is missing.

        ahead=False: the file is needed now. The call waits for room, or for another process that is making the file.
        Nobody removes the file until `release`; every call needs a release of its own.

        ahead=True: the file is needed later. Nobody removes it to make room for another file ahead of use, but a file
        that is needed now may take its place. The call does not wait: it returns None, and holds nothing, while another
        process is making the file or while files that are held take all the room. A later call with ahead=False turns
        this hold into one for use.

        let_go: called before the call waits for room, to release what the caller can do without: if all users waited
        for each other, nobody would get any.

        Raises: CorruptShard if the file is damaged even when made again, StorageError if the disk fails or there is no
        room, and whatever `entry.make` raises.
        """
        self._refuse(entry)
        faults: list[str] = []
        deadline = _Deadline(self.wait_s)
        try:
            while not self._ready(claim := self._claim(entry, ahead), entry, ahead, faults):
                if claim in (_Claim.BUSY, _Claim.FULL):
                    if ahead:
                        return None
                    let_go()
                    self._wait(claim, entry, deadline)
        finally:
            self._stop_waiting(entry.key)  # however the wait ends, or others would never fetch ahead again
        if not ahead:
            self._count(misses=1) if deadline.tried or claim is _Claim.TO_MAKE else self._count(hits=1)
        return self.folder / entry.key

    def release(self, key: str) -> None:
        """End one use of a file; if it is not in use, end the hold ahead of use. Without either nothing happens."""
        if self._shared.is_mine():
            self._shared.drop(key, ahead=not self._shared.own.is_in_use(key))

    def share_bytes(self) -> int:
        """The part of the room for each object that uses the folder now."""
        with self._shared.locked():
            return self.limit_bytes // max(1, len(self._shared.ledger.users))

    def is_short(self) -> bool:
        """Whether somebody waits for room. Takes the folder's lock: not for every batch."""
        with self._shared.locked():
            return self._shared.anybody_waits()

    def close(self) -> None:
        """Release everything. Other threads give up the files that they are making."""
        self._shared.close()

    def _refuse(self, entry: Entry) -> None:
        if not self._shared.is_mine():
            raise RuntimeError(f"{self.folder}: a cache does not survive a fork; make one in each process")
        if entry.size + entry.extra > self.limit_bytes:
            needed = f"{entry.key} needs {entry.size + entry.extra:,} bytes"
            found = f"{needed}, the cache may have {self.limit_bytes:,}"
            raise StorageError(f"{self.folder}: {found}; {larger_cache(entry.size + entry.extra)}")

    def _ready(self, claim: _Claim, entry: Entry, ahead: bool, faults: list[str]) -> bool:
        if claim is _Claim.PRESENT:
            return self._verify(entry, ahead, faults)
        return claim is _Claim.TO_MAKE and self._make(entry, ahead, faults)

    def _claim(self, entry: Entry, ahead: bool) -> _Claim:
        """Hold the file if it is there; otherwise reserve room to make it, if there is room."""
        if self._shared.hold(entry.key, ahead=ahead):
            return _Claim.PRESENT
        # One lock from the second look to the reservation: nobody can make the file, or take the room, in between.
        with self._shared.locked():
            if self._shared.hold(entry.key, ahead=ahead):
                return _Claim.PRESENT
            if self._shared.maker(entry.key):
                return _Claim.BUSY
            if not self._make_room(entry.size + entry.extra, ahead):
                # On record, so that nobody fetches ahead into the room that this file waits for.
                if not ahead:
                    self._shared.own.wait(entry.key, waiting=True)
                return _Claim.FULL
            self._shared.reserve(entry.key, entry.size + entry.extra, ahead=ahead)
            return _Claim.TO_MAKE

    def _make_room(self, needed: int, ahead: bool) -> bool:
        """Remove files until there is room; remove nothing if that cannot make enough room."""
        if ahead and self._shared.anybody_waits():
            return False  # or those who bring in files ahead of use would take the room that others wait for
        missing = self._shared.ledger.taken + needed - self.limit_bytes
        if missing <= 0 or self._evict(self._unheld.take(missing), missing, ahead=True):
            return True
        # What is known of the folder may be old: users were killed, files were let go of or removed by hand.
        survey = self._shared.survey()
        self._unheld.learn(survey)
        missing = self._shared.ledger.taken + needed - self.limit_bytes
        if missing <= 0 or self._evict(self._unheld.take(missing), missing, ahead=True):
            return True
        return not ahead and self._evict(choose(survey, missing), missing, ahead=False)

    def _evict(self, victims: Iterable[str], missing: int, *, ahead: bool) -> bool:
        """Remove these files, except what is held by now. Returns whether that gave `missing` bytes."""
        freed = [self._shared.remove(key, ahead=ahead) for key in victims]
        self._count(evicted=sum(size > 0 for size in freed))
        return sum(freed) >= missing

    def _verify(self, entry: Entry, ahead: bool, faults: list[str]) -> bool:
        """Whether a file that is held is undamaged. A damaged one is removed, and so is the hold.

        Reading a whole shard takes a while, so it happens without the folder's lock. Another process may replace the
        file meanwhile; the version shows that, so that only the file that was read is removed.
        """
        path = self.folder / entry.key
        version = version_of(path)
        if version is not None and self._right.get(entry.key) == version:
            return True
        try:
            wrong = what_is_wrong(entry, path)
        except BaseException:  # Ctrl-C too: a hold that nobody releases would keep the file until the process ends
            self._shared.drop(entry.key, ahead=ahead)
            raise
        if wrong is None and version is not None:
            self._right[entry.key] = version
            return True
        if self._discard(entry.key, ahead, version):
            self._blame(f"{path}: {wrong}", faults)
        return False

    def _discard(self, key: str, ahead: bool, version: tuple[int, ...] | None) -> bool:
        """Remove this version of a file. False if somebody has replaced or removed it meanwhile: theirs may be good."""
        self._shared.drop(key, ahead=ahead)
        with self._shared.locked():
            if version is None or version_of(self.folder / key) != version:
                return False
            self._shared.discard(key)
            return True

    def _make(self, entry: Entry, ahead: bool, faults: list[str]) -> bool:
        """Make a file for which room is reserved. False if the result is damaged."""
        partial = self._shared.partial(entry.key)
        try:
            wrong = make_at(entry, partial)
            if wrong is None:
                self._publish(entry, partial)
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

    def _publish(self, entry: Entry, partial: Path) -> None:
        """Give a file its final name."""
        with self._shared.locked():
            # The version before the rename, which changes none of its parts: afterwards somebody may replace the file.
            version = version_of(partial)
            self._shared.publish(entry.key, entry.size)
        self._shared.remove_partial(entry.key)  # the file that `make` may have put beside it
        if version is not None:
            self._right[entry.key] = version
        self._count(made=1)

    def _give_up(self, key: str, ahead: bool) -> None:
        """Remove the unfinished file, and only then the room reserved for it, which it has taken so far."""
        self._shared.remove_partial(key)
        if not self._shared.closed:
            with self._shared.locked():
                self._shared.give_up(key)
            self._shared.drop(key, ahead=ahead)

    def _blame(self, fault: str, faults: list[str]) -> None:
        """Warn of the first fault, after which the file is made again; the second one is an error."""
        faults.append(fault)
        if len(faults) > 1:
            remedy = "the stored shard is damaged, or this machine's disk or memory: run `kkanji verify` on it"
            raise CorruptShard(f"{fault}; made again after: {faults[0]}; {remedy}")
        self._count(refetched=1)
        warnings.warn(f"{fault}; making it again", RuntimeWarning, stacklevel=2)

    def _wait(self, claim: _Claim, entry: Entry, deadline: "_Deadline") -> None:
        """Wait a moment. Raises StorageError once nothing has moved for `wait_s`."""
        if deadline.spent((claim, self._shared.progress())):
            raise StorageError(self._no_room(entry) if claim is _Claim.FULL else self._stuck(entry))
        until = time.monotonic() + (_ROOM_POLL_S if claim is _Claim.FULL else _MAKER_POLL_S)
        while time.monotonic() < until and not (self.folder / entry.key).exists():
            time.sleep(_LOOK_S)

    def _stop_waiting(self, key: str) -> None:
        if key in self._shared.own.waiting and not self._shared.closed:
            self._shared.own.wait(key, waiting=False)

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
        missing = f"no room in {self.wait_s:g} s for {entry.key}, {needed:,} bytes"
        return f"{self.folder}: {missing}: {found}; {larger_cache(taken + needed)}"

    def _stuck(self, entry: Entry) -> str:
        with self._shared.locked():
            maker = self._shared.maker(entry.key)
        who = "another process" if maker is None else f"process {maker}"
        found = f"{who} is making it and has written nothing for {self.wait_s:g} s"
        return f"{self.folder / entry.key}: {found}; end that process and start again"

    def _count(self, **more: int) -> None:
        with self._counting:
            sums = {name: getattr(self._counts, name) + count for name, count in more.items()}
            self._counts = replace(self._counts, **sums)


class _Deadline:
    """Ends when the same sign of progress has been seen for too long."""

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


def larger_cache(size_bytes: float) -> str:
    """What to do if a cache is to hold so much, in the gigabytes that the option has."""
    return f"give a --cache-size of {ceil(size_bytes / 1e6) / 1e3:g} or more"
