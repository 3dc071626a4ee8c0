"""One file from a web server, resumed where an earlier try or an earlier run left off.

The transfer is that of `shards.store.download`. What has been fetched is in `.NAME.part`, and its version (ETag, time,
size) in `.NAME.part.json`; the name itself appears when the file is whole and checked. An answer of another version is
refused: what If-Range would do, but also with weak ETags. Without a version, or a server that knows ranges, everything
is fetched again.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import obstore

from shards import write_file
from shards.checksums import file_digest
from shards.errors import InputError, MissingShard
from shards.json_reading import load_json
from shards.output.files import sync_file, sync_folder
from shards.output.lock import open_locked, unlock
from shards.store.credentials import connect, find_credentials, split_location
from shards.store.download import ResumableDownload, Version, version_of
from shards.store.retry import Remote, RetryPolicy, Traffic, ask
from tools.ingest.tar_stream import check_structure

RETRY_POLICY = RetryPolicy(request_s=60, total_s=180)  # a range of 8 MiB comes whole from 140 kB/s on
Progress = Callable[[int, int], object]  # called with the bytes that are there and the bytes of the whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The result of a download."""

    size: int
    """Bytes of the file."""
    new: int
    """Bytes that this call fetched; an earlier one had fetched the others."""
    md5: str
    """md5 of the file, in hexadecimal digits."""


def open_remote(base: str, name: str, retry_policy: RetryPolicy | None = None) -> Remote:
    """The file `name` below the URL `base`. Raises InputError if that is no URL of a web server."""
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
    """Fetch a file, whole and checked. `target` appears only when it is complete.

    md5: expected md5 in hexadecimal digits; empty if none is published: then the file is an archive, whose own
    structure shows whether it is empty or cut.
    Raises: InputError for a wrong checksum (what was fetched is removed) or if the server has no such file,
    ChangedShard if the file is replaced meanwhile, StorageError if the network, the server or the disk fails; then
    the part stays, and the next call goes on with it.
    """
    try:
        answer = ask(remote, lambda: obstore.head(remote.client, remote.key))
    except MissingShard as error:
        raise InputError(f"{remote.url}: not there (HTTP 404); check the address, or name a mirror by --url") from error
    version = version_of(answer)
    part = target.with_name(f".{target.name}.part")
    with _locked_part(part, version) as descriptor:
        transfer = ResumableDownload(remote, version, part, progress)
        with _noting(part, version):
            transfer.run()
        sync_file(descriptor)
        found = file_digest(part, "md5")  # published as md5; not for security
        with _removed_if_bad(part):
            _require_md5(remote, found, md5)
            if not md5:
                check_structure(part)
        part.replace(target)
    _version_path(part).unlink(missing_ok=True)
    sync_folder(target.parent)
    kept = 0 if transfer.restarted else transfer.start
    return Fetched(size=version.size, new=version.size - kept, md5=found)


@contextmanager
def _noting(part: Path, version: Version) -> Iterator[None]:
    """Add a note to an interruption (Ctrl-C, SIGTERM) that says how much is kept."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
            present = f"{part.stat().st_size / 1e6:.1f} of {version.size / 1e6:.1f} MB"
            error.add_note(f"{part}: {present} are kept; run again to go on")
        raise


@contextmanager
def _locked_part(part: Path, version: Version) -> Iterator[int]:
    """The part, locked for this process alone, and emptied unless it is the beginning of this version."""
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        while (descriptor := open_locked(part)) is None:
            pass  # another process has just finished it
    except BlockingIOError:
        raise InputError(f"{part}: another process is fetching it; wait for it or choose another --output") from None
    try:
        size = os.fstat(descriptor).st_size
        if not (version.is_certain and _read_version(part) == version and size <= version.size):
            os.truncate(descriptor, 0)
        write_file(_version_path(part), json.dumps(asdict(version)) + "\n")
        yield descriptor
    finally:
        unlock(descriptor)


@contextmanager
def _removed_if_bad(part: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        part.unlink()
        _version_path(part).unlink(missing_ok=True)
        raise


def _require_md5(remote: Remote, found: str, expected: str) -> None:
    if expected and found != expected:
        raise InputError(
            f"{remote.url}: md5 {found}, expected {expected}: damaged on the way or not the published file; removed, "
            "run again or name another mirror by --url"
        )


def _read_version(part: Path) -> Version | None:
    """The version that the part is of; None if that cannot be read."""
    try:
        return Version(**load_json(_version_path(part)))
    except (OSError, ValueError, TypeError):
        return None


def _version_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
