"""Getting objects whole, whatever network and server do: parts in parallel, retries, resumption, deadlines.

Why not obstore's own retries: they begin a body again from its start, do not notice an object that changes between two
requests, take a short body under a short Content-Length for the whole, and count per request instead of per object.

- The first request of an object goes alone until its answer begins: it tells ETag and size, and a server that only
  fails is asked 8 times an object, not 8 times a part. All others carry If-Match.
- A part goes on from the last byte that arrived, in pieces so small that a cut costs little. Any piece that arrives
  ends the trouble; while it lasts, one request at a time asks for the object.
- Bits flipped on the way are not noticed here: who knows the checksums checks them.
"""

import errno
import os
import shutil
import threading
import time
import weakref
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import GenericError, NotSupportedError

from shards.errors import ChangedShard, StorageError
from shards.store.error_messages import Shortfall, status_of
from shards.store.retry import REQUEST_ERRORS, Attempts, Remote, ask, give_up, workers

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

PART_BYTES = 8 << 20  # 4 MiB lose at 100 ms a request; 8 and 16 MiB are equally fast
PIECE_BYTES = 128 << 10  # 64 KiB to 1 MiB are equally fast; a connection slower than this in `request_s` is given up


def read_whole(remote: Remote) -> bytes:
    """A small object, of the length that the server says it has.

    Raises: MissingShard, CorruptShard, StorageError.
    """

    def call() -> bytes:
        answer = _ask_for_all(remote)
        data = bytes(answer.bytes())
        if len(data) != answer.meta["size"]:
            raise Shortfall(f"{len(data)} bytes arrived, expected {answer.meta['size']}")
        remote.traffic.count(size=len(data))
        return data

    return ask(remote, call)


def _ask_for_all(remote: Remote) -> "GetResult":
    """As a range, as then an answer tells the object's size beside its own length; no range fits an empty object."""
    try:
        return obstore.get(remote.client, remote.key, options={"range": {"offset": 0}})
    except NotSupportedError:
        return obstore.get(remote.client, remote.key)
    except GenericError as error:
        if status_of(error) != 416 or obstore.head(remote.client, remote.key)["size"]:
            raise
        return obstore.get(remote.client, remote.key)


@dataclass(slots=True)
class Part:
    """A range of an object that is still to come."""

    start: int
    stop: int
    shortfalls: int = 0


class Download:
    """One object on its way into a file."""

    def __init__(self, remote: Remote, size: int, target: Path) -> None:
        self._remote, self._size, self._target = remote, size, target
        self._file = open_target(target, size)
        weakref.finalize(self, os.close, self._file)  # by the last thread that may still write
        self._attempts = Attempts(remote)
        self._recovery, self._writing = threading.Lock(), threading.Lock()
        self._failure: Exception | None = None
        self._answered = threading.Event()
        self._etag: str | None = None
        self._ranged = True

    def run(self) -> None:
        """Fetch all of it. Raises MissingShard, ChangedShard, CorruptShard, StorageError."""
        lead, *others = [Part(start, min(start + PART_BYTES, self._size)) for start in range(0, self._size, PART_BYTES)]
        try:
            futures = [workers().submit(self._lead, lead)]
            self._answered.wait()
            if self._ranged and self._failure is None:
                futures += [workers().submit(self._fetch, part) for part in others]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            with self._writing:  # from here on no thread writes
                self._attempts.stopped.set()

    def _lead(self, part: Part) -> None:
        try:
            self._fetch(part)
        except Exception as failure:
            self._failure = failure
            raise
        finally:
            self._answered.set()

    def _fetch(self, part: Part) -> None:
        while part.start < part.stop and not self._attempts.stopped.is_set():
            began = time.monotonic()
            try:
                self._receive(part)
            except REQUEST_ERRORS as error:
                self._recover(part, error, time.monotonic() - began)

    def _recover(self, part: Part, error: Exception, took_s: float) -> None:
        """Ask again until something comes. Parts that fail meanwhile wait for their turn, or share the failure."""
        with self._recovery:
            while not self._attempts.stopped.is_set():
                self._wait(part, error, took_s)
                began = time.monotonic()
                try:
                    return self._receive(part)
                except REQUEST_ERRORS as again:
                    error, took_s = again, time.monotonic() - began

    def _wait(self, part: Part, error: Exception, took_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            part.shortfalls += isinstance(error, Shortfall)
            if part.shortfalls >= self._remote.retry_policy.requests:
                give_up(error, self._remote, f"{part.shortfalls} requests")
            self._attempts.wait(error, took_s)
        except Exception as failure:
            self._failure = failure
            raise

    def _receive(self, part: Part) -> None:
        """One request. The part's start moves as bytes are written."""
        with self._remote.traffic.request():
            answer = self._ask(part)
            self._answered.set()
            for piece in answer.stream(PIECE_BYTES):
                if not self._write(piece, part):
                    return
        if part.start < part.stop:
            raise Shortfall(f"the body of a request ended at byte {part.start}, expected {part.stop}")

    def _ask(self, part: Part) -> "GetResult":
        options: GetOptions = {}
        if self._ranged:
            options["range"] = (part.start, part.stop)
        else:
            part.start = 0
        if self._etag is not None and not self._etag.startswith("W/"):  # weak ones never match (RFC 9110, 13.1.1)
            options["if_match"] = self._etag
        try:
            answer = obstore.get(self._remote.client, self._remote.key, options=options)
        except NotSupportedError:  # 200 instead of 206: a server that knows no ranges
            if not self._ranged:
                raise
            self._ranged, part.stop = False, self._size
            return self._ask(part)
        self._check(answer)
        return answer

    def _check(self, answer: "GetResult") -> None:
        """The lead's answer comes first, so no other thread sets the ETag."""
        found, size = answer.meta["e_tag"], answer.meta["size"]
        if self._etag is not None and found != self._etag:
            raise ChangedShard(
                f"{self._remote.url}: ETag {found}, but {self._etag} before: replaced while it was read; "
                "start again with the new set"
            )
        if size != self._size and self._ranged:
            raise ChangedShard(
                f"{self._remote.url}: {size} bytes, expected {self._size}: not the object that dataset.json describes; "
                "push the set again, or start again with the new set"
            )
        self._etag = found

    def _write(self, piece: bytes, part: Part) -> bool:
        if len(piece) > part.stop - part.start:
            raise Shortfall(f"the body of a request goes on after byte {part.stop}, where it should end")
        try:
            with self._writing:
                if self._attempts.stopped.is_set():
                    return False
                os.pwrite(self._file, piece, part.start)
        except OSError as error:
            raise disk_error(self._target, self._size, error) from error
        part.start += len(piece)
        self._attempts.progressed()
        self._remote.traffic.count(size=len(piece))
        return True


def open_target(target: Path, size: int) -> int:
    """A file with room for so many bytes. Raises StorageError."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror}") from error
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.close(descriptor)
        raise disk_error(target, size, error) from error
    return descriptor


def disk_error(target: Path, size: int, error: OSError) -> StorageError:
    """What the user is to read when the disk refuses a file of this size."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"{target}: {error.strerror}")
    free = shutil.disk_usage(target.parent).free
    return StorageError(f"{target}: {error.strerror}: {size / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")
