"""One file from a web server, resumed where an earlier try or an earlier run left off.

Through obstore, as all of the project's traffic, with the patience and the messages of shards/store/retry.py. What is
fetched lies in `.NAME.part` with its validator (ETag, time, size) in `.NAME.part.json`; the name itself appears when
all is there and checked. A range is asked for from the last byte on, and its answer must carry the same validator: what
If-Range would do, but also with weak ETags. Where a server knows no ranges or no validator, all is fetched again.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import obstore
from obstore.exceptions import NotSupportedError

from shards import write_file
from shards.errors import ChangedShard, InputError, MissingShard
from shards.output.files import sync_file, sync_folder
from shards.store.credentials import connect, find_credentials, split_location
from shards.store.download import PIECE_BYTES, disk_error
from shards.store.error_messages import Shortfall
from shards.store.retry import REQUEST_ERRORS, Attempts, Remote, RetryPolicy, Traffic, ask, workers

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

RANGE_BYTES = 16 << 20  # a request of 60 s brings it whole from 280 kB/s on; what is slower goes on from where it was
RETRY_POLICY = RetryPolicy(request_s=60, total_s=180)
WHOLE_S = 3600  # for a request that cannot be resumed
Progress = Callable[[int, int], object]  # called with the bytes that are there and the bytes of the whole


class Validator(NamedTuple):
    """What tells one version of a file from another."""

    etag: str | None
    last_modified: str
    """Empty if the server does not say."""
    size: int

    @property
    def tells(self) -> bool:
        """Whether it is more than a size."""
        return self.etag is not None or bool(self.last_modified)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What came of a download."""

    size: int
    new: int
    """Bytes that were fetched now."""
    md5: str


def open_remote(base: str, name: str, retry_policy: RetryPolicy | None = None) -> Remote:
    """The file `name` below the URL `base`. Raises InputError for what is no URL of a web server."""
    url = f"{base.rstrip('/')}/{name}"
    scheme, host, key = split_location(url)
    if not scheme.startswith("http"):
        raise InputError(f"{base}: expected https://host/path or http://host/path")
    credentials = find_credentials(scheme, host)
    retry_policy = retry_policy or RETRY_POLICY
    client = connect(credentials, retry_policy.request_s, 0)
    return Remote(
        client=client, key=key, url=url, credentials=credentials, retry_policy=retry_policy, traffic=Traffic()
    )


def download(remote: Remote, target: Path, *, md5: str, progress: Progress) -> Fetched:
    """Fetch a file under its name, whole and checked, or not at all.

    md5: in hexadecimal digits; empty if none is known.
    Raises: InputError for a wrong checksum (the part is removed) or a file that is not there, StorageError when the
    network, the server or the disk refuse; the part stays, and the next call goes on with it.
    """
    try:
        answer = ask(remote, lambda: obstore.head(remote.client, remote.key))
    except MissingShard as error:
        raise InputError(f"{remote.url}: not there (HTTP 404); check the address, or name a mirror by --url") from error
    expected = _validator(answer)
    part = target.with_name(f".{target.name}.part")
    with _open_part(part, expected) as file:
        begun = file.tell()
        transfer = _Transfer(remote, expected, file, part, progress)
        transfer.run()
        sync_file(file.fileno())
        file.seek(0)
        found = hashlib.file_digest(file, "md5").hexdigest()  # published as md5; not for security
        _require_md5(remote, found, md5, part)
        part.replace(target)
    _facts_path(part).unlink(missing_ok=True)
    sync_folder(target.parent)
    return Fetched(size=expected.size, new=expected.size - (0 if transfer.restarted else begun), md5=found)


class _Transfer:
    """The bytes of one file on their way."""

    def __init__(
        self,
        remote: Remote,
        expected: Validator,
        file: BufferedRandom,
        part: Path,
        progress: Progress,
    ) -> None:
        self.restarted = False
        """Whether bytes that were there had to be fetched again."""
        self._remote, self._expected, self._file, self._part = remote, expected, file, part
        self._progress = progress
        self._attempts = Attempts(remote)
        self._ranged = True

    def run(self) -> None:
        """In a thread, so that the main one can be interrupted meanwhile."""
        try:
            workers().submit(self._run).result()
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
                present = f"{self._part.stat().st_size / 1e6:.1f} of {self._expected.size / 1e6:.1f} MB"
                error.add_note(f"{self._part}: {present} are kept; run again to go on")
            raise
        finally:
            self._attempts.stopped.set()

    def _run(self) -> None:
        self._progress(self._file.tell(), self._expected.size)
        while self._file.tell() < self._expected.size and not self._attempts.stopped.is_set():
            began = time.monotonic()
            try:
                with self._remote.traffic.request():
                    self._receive()
            except REQUEST_ERRORS as error:
                self._attempts.wait(error, time.monotonic() - began)

    def _receive(self) -> None:
        """One request."""
        start = self._file.tell()
        stop = min(start + RANGE_BYTES, self._expected.size)
        options: GetOptions = {"range": (start, stop)} if self._ranged else {}
        try:
            answer = obstore.get(self._remote.client, self._remote.key, options=options)
        except NotSupportedError:  # 200 instead of 206: the whole file, whatever was asked for
            if not self._ranged:
                raise
            self._begin_whole()
            return self._receive()
        if not self._ranged:
            self._restart()
            stop = self._expected.size
        self._check(answer.meta)
        for piece in answer.stream(PIECE_BYTES):
            if self._attempts.stopped.is_set():
                return
            self._write(bytes(piece), stop)
        if self._file.tell() < stop:
            raise Shortfall(f"the body of a request ended at byte {self._file.tell()}, expected {stop}")

    def _begin_whole(self) -> None:
        self._ranged = False
        retry_policy = replace(self._remote.retry_policy, request_s=WHOLE_S, total_s=2 * WHOLE_S)
        client = connect(self._remote.credentials, WHOLE_S, 0)
        self._remote = replace(self._remote, client=client, retry_policy=retry_policy)

    def _restart(self) -> None:
        self.restarted = self.restarted or self._file.tell() > 0
        self._file.seek(0)
        self._file.truncate()

    def _check(self, meta: "ObjectMeta") -> None:
        found = _validator(meta)
        if found != self._expected:
            raise ChangedShard(f"{self._remote.url}: replaced while it was fetched; run again to fetch the new one")

    def _write(self, piece: bytes, stop: int) -> None:
        if self._file.tell() + len(piece) > stop:
            raise Shortfall(f"the body of a request goes on after byte {stop}, where it should end")
        try:
            self._file.write(piece)
            self._file.flush()
        except OSError as error:
            raise disk_error(self._part, self._expected.size, error) from error
        self._attempts.progressed()
        self._remote.traffic.count(size=len(piece))
        self._progress(self._file.tell(), self._expected.size)


@contextmanager
def _open_part(part: Path, expected: Validator) -> Iterator[BufferedRandom]:
    """The part at the end of what can be kept, for this process alone."""
    part.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{part}: another process is fetching it; wait for it or choose another --output"
            ) from None
        size = os.fstat(file.fileno()).st_size
        if not (expected.tells and _read_facts(part) == expected and size <= expected.size):
            size = 0
        file.truncate(size)
        file.seek(size)
        write_file(_facts_path(part), json.dumps(expected) + "\n")
        yield file


def _require_md5(remote: Remote, found: str, expected: str, part: Path) -> None:
    if expected and found != expected:
        part.unlink()
        _facts_path(part).unlink(missing_ok=True)
        raise InputError(
            f"{remote.url}: md5 {found}, expected {expected}: damaged on the way or not the published file; removed, "
            "run again or name another mirror by --url"
        )


def _validator(meta: "ObjectMeta") -> Validator:
    """obstore gives 1970 to what has no time."""
    modified = meta["last_modified"]
    return Validator(meta["e_tag"], modified.isoformat() if modified.timestamp() else "", meta["size"])


def _read_facts(part: Path) -> Validator | None:
    try:
        return Validator._make(json.loads(_facts_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _facts_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
