"""Shard set in a folder -> the same set in an object store, whole or not at all."""

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Annotated

import tyro

from kkanji.threads import map_in_order
from shards import CorruptShard, InputError, Manifest, MissingShard, Shard, read_manifest
from shards.checksums import file_digest
from shards.format.columns import column_files
from shards.format.compression import check_stored
from shards.format.manifest import CLASSES_NAME, MANIFEST_NAME, part_name
from shards.read.files import COPY_AGAIN
from shards.store.retry import Workers
from shards.store.store import Store, open_store
from shards.verify.verify import OURS
from tools.progress import count_bytes

CLAIM_NAME = f"{MANIFEST_NAME}.partial"  # the manifest of the set that is being pushed, until dataset.json is there
REMEDY = "choose another prefix, or remove what is there"
AT_ONCE = 4  # objects in flight, each of up to four parts


class OtherSet(InputError):
    """The prefix holds something else than this set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file to send."""

    path: Path
    bytes: int
    sha256: str
    """Checksum in the manifest, or of the file itself if the manifest has none."""
    shard: Shard | None = None
    """The shard, if the file is a tar."""


def push(
    folder: tyro.conf.Positional[Path],
    location: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DESTINATION")]],
    /,
) -> None:
    """Copy a shard set to an object store.

    dataset.json goes last, and readers see no set before it. After an interruption the same command resumes: it skips
    objects with the same size and sha256. A prefix that holds another set or other files is refused and left as it is.

    Example: kkanji push data/shards s3://bucket/kuzushiji

    Args:
        folder: Shard set, made by `kkanji pack`, `balance` or `convert`.
        location: Destination: a bucket and a prefix (s3://, gs://, az://), or a folder.
    """
    started = time.perf_counter()
    manifest, store = read_manifest(folder), open_store(location)
    files = [*_files(folder, manifest)]
    _refuse_others(store, files, manifest)
    _claim(store, manifest)
    missing = _missing(store, files, manifest)
    with count_bytes(sum(file.bytes for file in files)) as progress:
        progress.update(sum(file.bytes for file in files) - sum(file.bytes for file in missing))
        for file in map_in_order(_pool(), partial(_send, store), missing, ahead=AT_ONCE):
            progress.update(file.bytes)
    _complete(store, files, manifest)
    print(_summary(store, files, missing, manifest, time.perf_counter() - started))


def _files(folder: Path, manifest: Manifest) -> Iterator[File]:
    """All files but `dataset.json`. Raises MissingShard or CorruptShard if the folder does not match its manifest."""
    if manifest.base and "://" not in manifest.base:
        raise InputError(f"{folder}: its tars lie in {manifest.base}; `kkanji convert` makes a set of its own")
    yield _file(folder / CLASSES_NAME)
    yield from (_file(folder / column.name, sha256=column.sha256) for column in column_files(manifest))
    for name, split in manifest.splits.items():
        yield from (_file(folder / part_name(name, at), sha256=sha256) for at, sha256 in enumerate(split.parts))
    for split in manifest.splits.values():
        for shard in split.shards:
            yield from _shard_files(folder, manifest, shard)


def _shard_files(folder: Path, manifest: Manifest, shard: Shard) -> Iterator[File]:
    yield _file(folder / shard.index_name)
    if shard.table_sha256 is not None:
        yield _file(folder / shard.table_name, sha256=shard.table_sha256)
    if not manifest.base:
        yield _file(folder / shard.name, sha256=shard.sha256, shard=shard)


def _file(path: Path, *, sha256: str | None = None, shard: Shard | None = None) -> File:
    """A file whose sha256 is compared when it is sent."""
    if not path.is_file():
        raise MissingShard(f"{path}: not there; {COPY_AGAIN}")
    found = path.stat().st_size
    if shard is not None and found != shard.bytes:
        raise CorruptShard(f"{path}: {found} bytes, expected {shard.bytes}; {COPY_AGAIN}")
    return File(path=path, bytes=found, sha256=sha256 or file_digest(path), shard=shard)


def _refuse_others(store: Store, files: Iterable[File], manifest: Manifest) -> None:
    """Raise OtherSet before anything is written over."""
    found = store.list()
    if MANIFEST_NAME in found:
        _compare(store, MANIFEST_NAME, manifest, "another set is there")
    ours = {file.path.name: file.bytes for file in files}
    for name, size in sorted(found.items()):
        known = ours.get(name)
        if known is None and PurePath(name).suffix in OURS and name != MANIFEST_NAME:
            raise OtherSet(f"{store.url(name)}: not part of the set; {REMEDY}")
        if known is not None and known != size:
            raise OtherSet(f"{store.url(name)}: {size} bytes, expected {known}: of another set; {REMEDY}")


def _claim(store: Store, manifest: Manifest) -> None:
    """Two pushes of different sets must not mix, so the first one records its manifest."""
    if store.size(MANIFEST_NAME) is None:
        store.upload(CLAIM_NAME, manifest.to_json().encode(), create=True)
        _compare(store, CLAIM_NAME, manifest, "another set is being pushed here, or its push was interrupted")


def _compare(store: Store, name: str, manifest: Manifest, otherwise: str) -> None:
    found = store.read(name)
    if found != manifest.to_json().encode():
        digests = f"sha256 {hashlib.sha256(found).hexdigest()}, this one has {manifest.identity()}"
        raise OtherSet(f"{store.url(name)}: {otherwise}: {digests}; {REMEDY}")


def _missing(store: Store, files: list[File], manifest: Manifest) -> list[File]:
    """The files still to send. Checks the prefix again, now that it is claimed."""
    try:
        _refuse_others(store, files, manifest)
        there = store.list()
        present = [file for file in files if file.path.name in there]
        digests = map_in_order(_pool(), partial(_digest, store), present, ahead=AT_ONCE)
        for file, sha256 in zip(present, digests, strict=True):
            if sha256 != file.sha256:
                found = f"sha256 {sha256}, expected {file.sha256}"
                raise OtherSet(f"{store.url(file.path.name)}: {found}: of another set; {REMEDY}")
    except OtherSet:
        store.remove(CLAIM_NAME)
        raise
    return [file for file in files if file.path.name not in there]


def _digest(store: Store, file: File) -> str:
    """sha256 of an object. One that other tools sent, without a sha256, is fetched to compute it."""
    found = store.digest(file.path.name)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="kkanji-") as folder:
        store.download(file.path.name, file.bytes, Path(folder) / "object")
        return file_digest(Path(folder) / "object")


def _send(store: Store, file: File) -> File:
    found = file_digest(file.path)
    if found != file.sha256:
        block = file.shard and check_stored(file.shard, file.path)
        raise CorruptShard(f"{file.path}: {block or f'sha256 {found}, expected {file.sha256}'}; {COPY_AGAIN}")
    store.upload(file.path.name, file.path)
    return file


def _complete(store: Store, files: list[File], manifest: Manifest) -> None:
    """Write dataset.json; it completes the set."""
    there = store.list()
    for file in files:
        if there.get(file.path.name) != file.bytes:
            found = f"{there.get(file.path.name, 'no')} bytes, expected {file.bytes}"
            raise OtherSet(f"{store.url(file.path.name)}: {found}: another process writes here; {REMEDY}")
    store.upload(MANIFEST_NAME, manifest.to_json().encode(), create=True)
    _compare(store, MANIFEST_NAME, manifest, "another set is there")
    store.remove(CLAIM_NAME)


@cache
def _pool() -> Workers:
    """Daemons: Ctrl-C must not wait for a server that does not answer."""
    return Workers(AT_ONCE)


def _summary(store: Store, files: list[File], sent: list[File], manifest: Manifest, seconds: float) -> str:
    size = sum(file.bytes for file in sent)
    rate = f"{size / 1e6:,.1f} MB in {seconds:.1f} s, {size / 1e6 / seconds:,.0f} MB/s"
    kept = f"; {len(files) - len(sent)} were there before" if len(sent) < len(files) else ""
    return f"{store.location}: {len(sent)} files, {rate}{kept}; sha256 of {MANIFEST_NAME}: {manifest.identity()}"
