"""The columns of a split: mapped from their files, or collected from the shards of a set that is older than columns."""

import numpy as np
from numpy.typing import NDArray

from shards.cache.cache import Cache, Entry
from shards.errors import CorruptShard
from shards.format.columns import (
    Numbers,
    ShardColumns,
    column_file,
    column_problem,
    map_column,
    read_image_columns,
    read_in_threads,
    read_packed_columns,
)
from shards.format.manifest import Manifest
from shards.order.balanced import Labels, count_labels, sort_by_class
from shards.read.files import SplitFiles
from shards.store.store import Store


class SplitColumns:
    """Labels, sources and order by class of all samples of a split. Nothing is read before it is asked for."""

    def __init__(
        self, store: Store, tars: Store, manifest: Manifest, split: str, files: SplitFiles, cache: Cache | None
    ) -> None:
        """store: has the manifest. tars: has the shards. cache: for columns in an object store; None if they are here.

        files: the split's shards on this machine.
        """
        self._store, self._tars, self._manifest, self._split = store, tars, manifest, split
        self._files, self._cache = files, cache

    def labels(self) -> Labels:
        """Class numbers [n]: mapped from the column in a narrow type, or int32."""
        labels = self._column("labels")
        return self._stored().labels if labels is None else labels

    def sources(self) -> NDArray[np.uint64]:
        """The original that each sample was made from [n]."""
        sources = self._column("sources")
        return self._stored().sources if sources is None else sources.astype(np.uint64, copy=False)

    def by_class(self) -> Numbers:
        """The numbers of all samples sorted by class [n], for `BalancedOrder`.

        Raises: CorruptShard if a set without columns has other labels than its manifest counts.
        """
        by_class = self._column("by_class")
        if by_class is not None:
            return by_class
        labels = self.labels()
        try:
            counts = count_labels(labels, self._manifest.classes)
            wrong = np.flatnonzero(counts != self._manifest.splits[self._split].samples_per_class)
        except ValueError as error:
            raise CorruptShard(f"{self._where}: {error}; run `kkanji verify` on it") from error
        if len(wrong):
            found = "not as many labels of each class as dataset.json says"
            raise CorruptShard(f"{self._where}: {found}; run `kkanji verify` on it")
        return sort_by_class(labels, counts)

    @property
    def _where(self) -> str:
        return f"{self._store.location}: shards of {self._split}"

    def unchecked_sources(self) -> Numbers | None:
        """`sources` of a set with columns here, without reading them all to compare their checksum; None for others."""
        return self._column("sources", check=False) if self._store.folder is not None else None

    def _column(self, name: str, *, check: bool = True) -> Numbers | None:
        """A column's values; None for a set without columns."""
        file = column_file(self._manifest, self._split, name)
        if file is None:
            return None
        if self._store.folder is not None:
            return map_column(self._store.folder / file.name, file, check=check)
        assert self._cache is not None  # noqa: S101  (columns of an object store are cached)
        entry = Entry(
            key=f"{file.sha256}.npy",
            size=file.size,
            make=lambda path: self._store.download(file.name, file.size, path),
            check=lambda path: column_problem(path, file),
        )
        path = self._cache.obtain(entry, ahead=False)
        assert path is not None  # noqa: S101  (only a file brought ahead may be refused)
        try:
            return map_column(path, file)
        finally:
            self._cache.release(entry.key)  # the mapping outlives the file's name

    def _stored(self) -> ShardColumns:
        """What the shards themselves say."""
        parts = read_in_threads(self._read, len(self._files.shards))
        labels, sources = [*zip(*parts, strict=True)] or [(), ()]
        return ShardColumns(
            np.concatenate([np.empty(0, np.int32), *labels]), np.concatenate([np.empty(0, np.uint64), *sources])
        )

    def _read(self, number: int) -> ShardColumns:
        shard = self._files.shards[number]
        if self._manifest.layout == "image":
            return read_image_columns(self._store, shard)
        if self._tars.folder is not None:
            return read_packed_columns(self._tars.folder / shard.name, shard.blocks)
        path = self._files.obtain(number)
        assert path is not None  # noqa: S101  (only a file brought ahead may be refused)
        try:
            return read_packed_columns(path, shard.plain, self._tars.url(shard.name))
        finally:
            self._files.release(number)
