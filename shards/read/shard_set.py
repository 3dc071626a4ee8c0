"""A set in a folder or in an object store."""

import os
import shutil
from functools import cached_property
from pathlib import Path

from shards.cache.cache import Cache
from shards.errors import InputError, StorageError
from shards.format.image_layout import read_table
from shards.format.manifest import Manifest
from shards.format.manifest_reader import read_manifest
from shards.read.background_check import BackgroundCheck
from shards.read.columns import SplitColumns
from shards.read.encoded import Decode, EncodedReader
from shards.read.files import SplitFiles, check_listing, list_ahead
from shards.read.opening import check_packed, require_mappings
from shards.read.packed import PackedReader
from shards.read.reader import SplitReader
from shards.store.store import open_store

CACHE_FRACTION = 0.8  # of the disk's free space, for a cache without a stated limit


class ShardSet:
    """A shard set, opened for reading."""

    def __init__(self, location: str | Path, *, cache: Cache | None = None, decode: Decode | None = None) -> None:
        """location: a folder or a URL (s3://, gs://, az://, https://).

        cache: for remote and for compressed sets; the default one if None. decode: for sets of PNG or JPEG images.
        Raises: MissingShard or CorruptShard without a readable manifest, StorageError.
        """
        self._store = open_store(location)
        self.location = self._store.location
        listing = list_ahead(self._store)  # while the manifest is read: together they take the time of one
        self.manifest: Manifest = read_manifest(self._store.folder or self._store)
        self._tars = open_store(self.manifest.base) if self.manifest.base else self._store
        self._listing = self._tars.list if self.manifest.base else listing
        self._decode = decode
        if cache is not None:
            self.cache = cache

    def read(self, name: str) -> bytes:
        """One of the set's small files."""
        return self._store.read(name)

    def split(self, name: str, *, threads: int = 1, check: bool = False) -> SplitReader:
        """A reader of one split. check: compare shards with the manifest before use (see `SplitReader`).

        Raises: InputError if there is no such split, MissingShard or ChangedShard if its tars are not the manifest's.
        """
        if name not in self.manifest.splits:
            known = ", ".join(sorted(self.manifest.splits))
            raise InputError(f"{self.location}: no split {name!r}; it has: {known}")
        check_listing(self._tars, self.manifest, name, self._listing)
        files = self._files(name)
        columns = self._columns(name, files)
        self._check_opening(name, columns)
        if self.manifest.layout == "packed":
            return PackedReader(files, columns, threads=threads, check=check)
        tables = [read_table(self._store, shard) for shard in files.shards]
        return EncodedReader(files, columns, tables, self._decode, threads=threads, check=check)

    def check_in_background(self, *splits: str, part: int = 0, of: int = 1) -> BackgroundCheck:
        """Start to compare every byte of these splits with the manifest, unless the cache verifies them anyway.

        part, of: check only every `of`-th shard, from number `part` on.
        """
        shards = [(files, number) for files in map(self._files, splits) for number in range(len(files.shards))]
        return BackgroundCheck(shards[part::of] if self.in_place else [])

    def _files(self, name: str) -> SplitFiles:
        return SplitFiles(self._tars, self.manifest, name, None if self.in_place else self.cache)

    def _columns(self, name: str, files: SplitFiles) -> SplitColumns:
        cache = self.cache if self._store.folder is None else None
        return SplitColumns(self._store, self._tars, self.manifest, name, files, cache)

    def _check_opening(self, name: str, columns: SplitColumns) -> None:
        """Of shards that are used in place; the cache verifies its own."""
        folder, table = self._tars.folder, self.manifest.splits[name].table
        if folder is None or not self.in_place:
            return
        require_mappings(len(table), self.location)
        if self.manifest.layout == "packed":
            check_packed(folder, table, columns.unchecked_sources())

    @property
    def folders(self) -> tuple[Path, ...]:
        """The set's folders on this machine: its own, and that of its tars."""
        return tuple(store.folder for store in (self._store, self._tars) if store.folder is not None)

    @property
    def in_place(self) -> bool:
        """Whether the shards are used where they lie, without the cache."""
        return self._tars.folder is not None and self.manifest.compression == "none"

    @cached_property
    def cache(self) -> Cache:
        """The cache for shards that cannot be used in place. It may be set before the first split is opened."""
        return default_cache()


def default_cache(limit_bytes: int = 0) -> Cache:
    """The cache in $KKANJI_CACHE, or ~/.cache/kkanji. limit_bytes 0: 80 % of the disk's free space."""
    folder = Path(os.environ.get("KKANJI_CACHE") or os.path.expanduser("~/.cache/kkanji"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cache {folder}: {error.strerror}; set KKANJI_CACHE to a folder on a disk") from error
    held = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Cache(folder, limit_bytes or int(CACHE_FRACTION * (shutil.disk_usage(folder).free + held)))
