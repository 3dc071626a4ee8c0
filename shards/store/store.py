"""One interface to the places where sets are stored: folders and prefixes of object stores.

Names are plain file names. Locations and settings are described in shards/store/credentials.py, failures of the network
or the server in shards/store/retry.py and shards/store/download.py.
"""

import hashlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError

from shards.checksums import file_digest
from shards.errors import ChangedShard, CorruptShard, InputError, MissingShard, StorageError
from shards.json_reading import read_bounded
from shards.output.files import sync_file, sync_folder
from shards.regular_files import reading
from shards.store.credentials import connect, find_credentials, split_location
from shards.store.download import Download, disk_error, read_whole
from shards.store.error_messages import refuse
from shards.store.retry import REQUEST_ERRORS, Remote, RetryPolicy, Traffic, ask, workers

UPLOAD_RETRIES = 7  # by obstore, as only it can retry one part of a multipart upload
UPLOAD_PART_BYTES = 8 << 20
UPLOAD_PARTS = 4  # at once; 8 MiB each within `upload_s` need 280 kB/s
MISTYPED = re.compile(r"(s3|gs|az|https?|file):/", re.IGNORECASE)  # a scheme that lacks a slash
DIGEST = "sha256"  # the attribute with an object's sha256


class Store(ABC):
    """A folder or a prefix. Any thread may call its methods."""

    def __init__(self, location: str, folder: Path | None) -> None:
        self.location = location
        """Path or URL without a slash at its end, for messages."""
        self.folder = folder
        """The folder; None for an object store."""
        self.traffic = Traffic()
        """Requests and bytes so far; none for a folder."""

    @property
    def can_list(self) -> bool:
        """Whether names can be listed; a web server cannot."""
        return True

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of an object of at most MOST_BYTES. Raises MissingShard, CorruptShard if larger, StorageError."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is no such object."""

    @abstractmethod
    def list(self) -> dict[str, int]:
        """The size of each object directly in the folder or below the prefix."""

    @abstractmethod
    def download(self, name: str, size: int, target: Path) -> None:
        """Copy an object of this size into a file. After an error, delete the file.

        Raises: MissingShard, ChangedShard (another size, or replaced meanwhile), CorruptShard, StorageError.
        """

    @abstractmethod
    def upload(self, name: str, source: Path | bytes, *, create: bool = False) -> bool:
        """Make or replace an object, whole or not at all.

        create: do not replace one. Returns False if there was one already.
        """

    @abstractmethod
    def digest(self, name: str) -> str | None:
        """The sha256 of an object; None if it cannot be known without fetching it.

        `upload` stores it with the object.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove an object if there is one."""

    def url(self, name: str) -> str:
        """An object's place, for messages."""
        return f"{self.location}/{name}"


class FolderStore(Store):
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder).rstrip("/") or "/", folder)
        self._folder = folder

    def read(self, name: str) -> bytes:
        path = self._path(name)
        try:
            return read_bounded(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        except ValueError as error:
            raise CorruptShard(f"{path}: {error}; copy or make the set again") from error

    def size(self, name: str) -> int | None:
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def list(self) -> dict[str, int]:
        if not self._folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in sorted(self._folder.iterdir()) if path.is_file()}

    def download(self, name: str, size: int, target: Path) -> None:
        path = self._path(name)
        found = self.size(name)
        if found is not None and found != size:
            raise ChangedShard(f"{path}: {found} bytes, expected {size}; it was cut or replaced: copy or pack it again")
        try:
            shutil.copyfile(path, target)
        except OSError as error:
            raise disk_error(target, size, error) if found is not None else _unreadable(path, error) from error

    def upload(self, name: str, source: Path | bytes, *, create: bool = False) -> bool:
        path = self._path(name)
        # Not `atomic_file`: two processes may upload one name at once, so each needs a partial file of its own, and
        # `create` must fail where a rename would replace.
        partial = path.with_name(f".{name}.{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write_synced(partial, source)
            made = _publish(partial, path, create=create)
            sync_folder(self._folder)  # the next upload may be the manifest, which must not survive without this file
        except OSError as error:
            raise disk_error(path, _size(source), error) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        return made

    def digest(self, name: str) -> str | None:
        path = self._path(name)
        return file_digest(path) if path.is_file() else None

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / plain(name)


class ObjectStore(Store):
    """A prefix of a bucket, or a path of a web server."""

    def __init__(self, location: str, retry_policy: RetryPolicy) -> None:
        scheme, bucket, self._prefix = split_location(location)
        super().__init__(location.rstrip("/"), None)
        self._credentials = find_credentials(scheme, bucket)
        self._retry_policy = retry_policy
        self._client = connect(self._credentials, retry_policy.request_s, 0)

    @property
    def can_list(self) -> bool:
        return not self._credentials.scheme.startswith("http")

    def read(self, name: str) -> bytes:
        return read_whole(self._remote(name))

    def size(self, name: str) -> int | None:
        remote = self._remote(name)

        def call() -> int | None:
            try:
                return obstore.head(remote.client, remote.key)["size"]
            except FileNotFoundError:
                return None

        return ask(remote, call)

    def list(self) -> dict[str, int]:
        if not self.can_list:
            raise StorageError(f"{self.location}: a web server does not list what it has; give an s3:// location")
        remote, prefix = self._at(self._prefix, self.location), self._prefix or None
        found = ask(remote, lambda: obstore.list_with_delimiter(remote.client, prefix))
        return {entry["path"].rpartition("/")[2]: entry["size"] for entry in found["objects"]}

    def download(self, name: str, size: int, target: Path) -> None:
        Download(self._remote(name), size, target).run()

    def upload(self, name: str, source: Path | bytes, *, create: bool = False) -> bool:
        if not self.can_list:
            raise StorageError(f"{self.location}: a web server is only read from; give an s3:// location")
        slow = connect(self._credentials, self._retry_policy.upload_s, UPLOAD_RETRIES)
        remote = replace(self._remote(name), client=slow)
        digest = file_digest(source) if isinstance(source, Path) else hashlib.sha256(source).hexdigest()
        try:
            workers().submit(_put, remote, source, digest, create).result()
        except AlreadyExistsError:
            return False
        except REQUEST_ERRORS as error:
            refuse(error, remote.url, remote.credentials)
        except OSError as error:
            raise _unreadable(Path(str(source)), error) from error
        return True

    def digest(self, name: str) -> str | None:
        remote = self._remote(name)

        def call() -> str | None:
            attributes = obstore.get(remote.client, remote.key, options={"head": True}).attributes
            return {key.lower(): value for key, value in attributes.items()}.get(DIGEST)

        try:
            return ask(remote, call)
        except MissingShard:
            return None

    def remove(self, name: str) -> None:
        remote = self._remote(name)

        def call() -> None:
            try:
                obstore.delete(remote.client, remote.key)
            except FileNotFoundError:
                return

        ask(remote, call)

    def _remote(self, name: str) -> Remote:
        """The object of this name."""
        return self._at("/".join(filter(None, (self._prefix, plain(name)))), self.url(name))

    def _at(self, key: str, url: str) -> Remote:
        return Remote(
            client=self._client,
            key=key,
            url=url,
            credentials=self._credentials,
            retry_policy=self._retry_policy,
            traffic=self.traffic,
        )


def open_store(location: str | Path, *, retry_policy: RetryPolicy | None = None) -> Store:
    """The store at a path or URL, without a first request. Raises InputError if the URL is of an unknown kind."""
    text = str(location)
    if isinstance(location, Path) or "://" not in text:
        if mistyped := MISTYPED.match(text):
            raise InputError(f"{text}: expected {mistyped[1]}://... for a location, or ./{text} for a folder")
        return FolderStore(Path(location))
    if not text.startswith("file://"):
        return ObjectStore(text, retry_policy or RetryPolicy())
    host, slash, path = text.removeprefix("file://").partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(f"{text}: expected file:///an/absolute/path")
    return FolderStore(Path("/" + unquote(path)))


def plain(name: str) -> str:
    """Refuse a name that could lead out of its folder or prefix."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InputError(f"{name!r}: not a plain file name")
    return name


def _put(remote: Remote, source: Path | bytes, digest: str, create: bool) -> None:
    """A create is one request with the object in memory: object stores have no other atomic way."""
    with remote.traffic.request():
        obstore.put(
            remote.client,
            remote.key,
            source,
            attributes={DIGEST: digest},
            mode="create" if create else "overwrite",
            use_multipart=False if create or _size(source) <= UPLOAD_PART_BYTES else None,
            chunk_size=UPLOAD_PART_BYTES,
            max_concurrency=UPLOAD_PARTS,
        )


def _write_synced(path: Path, source: Path | bytes) -> None:
    with path.open("wb") as file:
        if isinstance(source, Path):
            with reading(source) as origin:
                shutil.copyfileobj(origin, file, 1 << 20)
        else:
            file.write(source)
        file.flush()
        sync_file(file.fileno())


def _publish(partial: Path, path: Path, *, create: bool) -> bool:
    """Give a file its name. create: by a link, since a rename would replace a file that another process has made."""
    if not create:
        partial.replace(path)
        return True
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    return True


def _size(source: Path | bytes) -> int:
    return source.stat().st_size if isinstance(source, Path) else len(source)


def _unreadable(path: Path, error: OSError) -> MissingShard | StorageError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MissingShard(f"{path}: {error.strerror}; expected a file of a shard set (made by `kkanji pack`)")
    return StorageError(f"{path}: {error.strerror}")
