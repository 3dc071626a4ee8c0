"""Whole objects over an unreliable network: ranges in parallel or in order, retries, resumption, deadlines.

Why not obstore's own retries: they begin a body again from its start, do not notice an object that changes between two
requests, take a short body under a short Content-Length for the whole, and count per request instead of per object.

- The first request of an object goes alone until its answer begins. The answer has the ETag and the size, and a server
  that only fails is asked 8 times an object, not 8 times a range. All other requests carry If-Match.
- A range goes on from the last byte that arrived, in pieces so small that a cut costs little. Any piece that arrives
  ends the trouble; while it lasts, one request at a time asks for the object.
- Bits flipped on the way are not noticed here: the caller compares checksums where it knows them.
"""

import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import GenericError, NotSupportedError

from shards.errors import DISK_FULL, ChangedShard, CorruptShard, StorageError
from shards.json_reading import MOST_BYTES
from shards.store.credentials import connect
from shards.store.error_messages import Shortfall, status_of
from shards.store.retry import REQUEST_ERRORS, Attempts, Remote, ask, give_up, workers

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta

RANGE_BYTES = 8 << 20  # of a request: 4 MiB lose at 100 ms a request; 8 and 16 MiB are equally fast
WHOLE_S = 3600  # for a request that cannot be resumed
NOT_OURS = "check the location: this is no small file of a shard set"
PIECE_BYTES = 128 << 10  # 64 KiB to 1 MiB are equally fast; a connection slower than this in `request_s` is given up


def read_whole(remote: Remote) -> bytes:
    """The content of a small object, checked against the size that the server states.

    Raises: MissingShard, CorruptShard (larger than MOST_BYTES, too), StorageError.
    """

    def call() -> bytes:
        answer = _ask_for_all(remote)
        size = answer.meta["size"]
        if size > MOST_BYTES:
            raise CorruptShard(f"{remote.url}: {size:,} bytes, expected at most {MOST_BYTES:,}; {NOT_OURS}")
        data = bytearray()
        for piece in answer.stream(PIECE_BYTES):
            data += piece
            if len(data) > size:
                break
        if len(data) != size:
            raise Shortfall(f"{len(data)} bytes arrived, expected {size}")
        remote.traffic.count(size=len(data))
        return bytes(data)

    return ask(remote, call)


def _ask_for_all(remote: Remote) -> "GetResult":
    """Request a range from byte 0 on: such an answer has the object's size beside its own length.

    Servers without ranges refuse it, and so do others for an empty object, which no range fits.
    """
    try:
        return obstore.get(remote.client, remote.key, options={"range": {"offset": 0}})
    except NotSupportedError:
        return obstore.get(remote.client, remote.key)
    except GenericError as error:
        if status_of(error) != 416 or obstore.head(remote.client, remote.key)["size"]:
            raise
        return obstore.get(remote.client, remote.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """What distinguishes one version of an object from another."""

    size: int
    """Bytes of the whole object."""
    etag: str | None
    """None if the server gives none."""
    last_modified: str
    """As ISO 8601; empty if the server gives no time."""

    @property
    def is_certain(self) -> bool:
        """Whether it says more than a size, which other content may have too."""
        return self.etag is not None or bool(self.last_modified)

    def differs(self, other: "Version") -> bool:
        """Whether ETags or, where there are none, times tell two versions apart. Mirrors may differ in times."""
        return self.etag != other.etag or (self.etag is None and self.last_modified != other.last_modified)

    def __str__(self) -> str:
        mark = f"ETag {self.etag}" if self.etag else self.last_modified or "no ETag and no time"
        return f"{self.size} bytes, {mark}"


def version_of(meta: "ObjectMeta") -> Version:
    """The version that an answer is of. obstore gives 1970 to what has no time."""
    modified = meta["last_modified"]
    time_text = modified.isoformat() if modified.timestamp() else ""
    return Version(size=meta["size"], etag=meta["e_tag"], last_modified=time_text)


@dataclass(slots=True)
class ByteRange:
    """A range of an object that is still to come."""

    start: int
    """Its first byte; moves as bytes are written."""
    stop: int
    """The byte after its last."""
    shortfalls: int = 0
    """Answers so far that ended too early or too late."""


class Download:
    """One object on its way into a new file, several ranges at once. After an error, delete the file."""

    def __init__(self, remote: Remote, size: int, target: Path) -> None:
        """size: bytes of the object, known from elsewhere."""
        self._remote, self._size, self._target = remote, size, target
        self._file = self._open()
        weakref.finalize(self, os.close, self._file)  # by the last thread that may still write
        self._attempts = Attempts(remote)
        self._recovery, self._writing = threading.Lock(), threading.Lock()
        self._failure: Exception | None = None
        self._answered = threading.Event()
        self._version: Version | None = None
        self._ranged = True

    def run(self) -> None:
        """Fetch all of it. Raises MissingShard, ChangedShard, CorruptShard, StorageError."""
        lead, *others = self._ranges(0)
        try:
            futures = [workers().submit(self._lead, [lead])]
            self._answered.wait()
            if self._ranged and self._failure is None:
                futures += [workers().submit(self._fetch, span) for span in others]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            self._stop()

    def _open(self) -> int:
        return open_target(self._target, self._size)

    def _ranges(self, start: int) -> list[ByteRange]:
        """What is still to come, from this byte on."""
        return [ByteRange(at, min(at + RANGE_BYTES, self._size)) for at in range(start, self._size, RANGE_BYTES)]

    def _stop(self) -> None:
        with self._writing:  # from here on no thread writes
            self._attempts.stopped.set()

    def _lead(self, spans: Sequence[ByteRange]) -> None:
        """Fetch ranges one after another, the first of the object among them."""
        try:
            for span in spans:
                if self._ranged:  # otherwise the one before brought everything
                    self._fetch(span)
        except Exception as failure:
            self._failure = failure
            raise
        finally:
            self._answered.set()

    def _fetch(self, span: ByteRange) -> None:
        while span.start < span.stop and not self._attempts.stopped.is_set():
            began = time.monotonic()
            try:
                self._receive(span)
            except REQUEST_ERRORS as error:
                self._recover(span, error, time.monotonic() - began)

    def _recover(self, span: ByteRange, error: Exception, took_s: float) -> None:
        """Ask again until something comes. Ranges that fail meanwhile wait for their turn, or fail alike."""
        with self._recovery:
            while not self._attempts.stopped.is_set():
                self._wait(span, error, took_s)
                began = time.monotonic()
                try:
                    return self._receive(span)
                except REQUEST_ERRORS as again:
                    error, took_s = again, time.monotonic() - began

    def _wait(self, span: ByteRange, error: Exception, took_s: float) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            span.shortfalls += isinstance(error, Shortfall)
            if span.shortfalls >= self._remote.retry_policy.requests:
                give_up(error, self._remote, f"{span.shortfalls} requests")
            self._attempts.wait(error, took_s)
        except Exception as failure:
            self._failure = failure
            raise

    def _receive(self, span: ByteRange) -> None:
        """One request. The range's start moves as bytes are written."""
        with self._remote.traffic.request():
            answer = self._ask(span)
            self._answered.set()
            for piece in answer.stream(PIECE_BYTES):
                if not self._write(piece, span):
                    return
        if span.start < span.stop:
            raise Shortfall(f"the body of a request ended at byte {span.start}, expected {span.stop}")

    def _ask(self, span: ByteRange) -> "GetResult":
        options: GetOptions = {}
        if self._ranged:
            options["range"] = (span.start, span.stop)
        else:
            span.start = 0
        etag = self._version.etag if self._version else None
        if etag is not None and not etag.startswith("W/"):  # weak ones never match (RFC 9110, 13.1.1)
            options["if_match"] = etag
        try:
            answer = obstore.get(self._remote.client, self._remote.key, options=options)
        except NotSupportedError:  # 200 instead of 206: a server that knows no ranges
            if not self._ranged:
                raise
            self._begin_whole(span)
            return self._ask(span)
        self._check(version_of(answer.meta))
        return answer

    def _begin_whole(self, span: ByteRange) -> None:
        """Fetch everything by one request."""
        self._ranged, span.stop = False, self._size

    def _check(self, found: Version) -> None:
        """The lead's answer comes first, so no other thread sets the version."""
        if self._version is not None and found.differs(self._version):
            raise self._replaced(found, self._version)
        if found.size != self._size and self._ranged:
            raise ChangedShard(
                f"{self._remote.url}: {found.size} bytes, expected {self._size}: not the object that dataset.json "
                "describes; push the set again, or start again with the new set"
            )
        self._version = found

    def _replaced(self, found: Version, before: Version) -> ChangedShard:
        what = f"{found}, but {before} before: replaced while it was read"
        return ChangedShard(f"{self._remote.url}: {what}; start again with the new one")

    def _write(self, piece: bytes, span: ByteRange) -> bool:
        if len(piece) > span.stop - span.start:
            raise Shortfall(f"the body of a request goes on after byte {span.stop}, where it should end")
        try:
            with self._writing:
                if self._attempts.stopped.is_set():
                    return False
                os.pwrite(self._file, piece, span.start)
        except OSError as error:
            raise disk_error(self._target, self._size, error) from error
        span.start += len(piece)
        self._attempts.progressed()
        self._remote.traffic.count(size=len(piece))
        return True


class ResumableDownload(Download):
    """One object on its way into a file that may hold its beginning: ranges come one after another.

    So whatever ends the download, the file holds the object from its start to some byte, and another download goes on
    from there. Where the server knows no ranges, everything is fetched again.
    """

    def __init__(self, remote: Remote, version: Version, target: Path, progress: Callable[[int, int], object]) -> None:
        """version: the one whose beginning the file holds; any other is refused.

        progress: called with the bytes that are there and the bytes of the whole.
        """
        super().__init__(remote, version.size, target)
        self._version, self._progress = version, progress
        self.start = os.fstat(self._file).st_size
        """Bytes that were there at the beginning."""

    @property
    def restarted(self) -> bool:
        """Whether those had to be fetched again."""
        return not self._ranged

    def run(self) -> None:
        """Fetch what is missing. Raises MissingShard, ChangedShard, CorruptShard, StorageError."""
        self._progress(self.start, self._size)
        try:
            workers().submit(self._lead, self._ranges(self.start)).result()
        finally:
            self._stop()

    def _open(self) -> int:
        return os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _begin_whole(self, span: ByteRange) -> None:
        """By a client that waits longer, as a request that is cut cannot be resumed."""
        super()._begin_whole(span)
        os.ftruncate(self._file, 0)
        self._remote = replace(self._remote, client=connect(self._remote.credentials, WHOLE_S, 0))

    def _check(self, found: Version) -> None:
        if self._version is not None and found.size != self._size:
            raise self._replaced(found, self._version)
        super()._check(found)

    def _write(self, piece: bytes, span: ByteRange) -> bool:
        written = super()._write(piece, span)
        if written:
            self._progress(span.start, self._size)
        return written


def open_target(target: Path, size: int) -> int:
    """A new file with room for this many bytes on the disk. Raises StorageError."""
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
    """The error for the user if the disk cannot hold a file of this size."""
    if error.errno not in DISK_FULL:
        return StorageError(f"{target}: {error.strerror}")
    free = shutil.disk_usage(target.parent).free
    return StorageError(f"{target}: {error.strerror}: {size / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")
