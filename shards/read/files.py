"""The shards of a split as files that can be mapped: in place, or in the node's cache."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shards.cache.cache import Cache, Entry
from shards.cache.entry import beside
from shards.errors import ChangedShard, CorruptShard, MissingShard, StorageError
from shards.format.compression import check_plain, unpack_shard
from shards.format.manifest import Manifest
from shards.format.shard_table import Shard, ShardTable
from shards.store.retry import Workers
from shards.store.store import Store

COPY_AGAIN = "copy it again or pack the set anew"


class SplitFiles:
    """Files to map, by the shard's number in its split.

    Uncompressed shards of a local set are used in place. Remote ones are downloaded into the cache, and compressed ones
    are unpacked there, so that a mapped file is one of two things: packed blocks, or a tar of images.
    """

    def __init__(self, store: Store, manifest: Manifest, split: str, cache: Cache | None) -> None:
        """store: has the tars. cache: None for a set that is used in place."""
        self.shards = manifest.splits[split].table
        self.sizes: list[int] = self.shards.plain_bytes.tolist()
        self.samples: list[int] = self.shards.samples.tolist()
        self._store, self._compression, self._cache = store, manifest.compression, cache
        self._whole_bytes = sum(int(part.table.plain_bytes.sum()) for part in manifest.splits.values())

    @property
    def in_place(self) -> bool:
        """Whether the files are used in place, without the cache."""
        return self._cache is None

    @property
    def room_bytes(self) -> int:
        """Most bytes of files that can be held at once."""
        return self._cache.limit_bytes if self._cache else sum(self.sizes)

    @property
    def whole_set_fits(self) -> bool:
        """Whether all splits can be held at once."""
        return self._cache is None or self._whole_bytes <= self._cache.limit_bytes

    def share_bytes(self) -> int:
        """The part of the room for each object that uses the cache now."""
        return self._cache.share_bytes() if self._cache else self.room_bytes

    def is_short(self) -> bool:
        """Whether somebody waits for room in the cache. Not for every batch: it takes a lock."""
        return self._cache is not None and self._cache.is_short()

    def where(self, number: int) -> str:
        """A shard's file, for messages."""
        return f"{self._store.location}/{self.shards.names[number]}"

    def obtain(self, number: int, *, ahead: bool = False, let_go: Callable[[], object] = lambda: None) -> Path | None:
        """A file, verified, and not evicted before it is released.

        ahead: it is needed later; None then if the cache has no room to spare. let_go: see `Cache.obtain`.
        Raises: CorruptShard, MissingShard, ChangedShard, StorageError.
        """
        if self._cache is None:
            return self.path(number)
        return self._cache.obtain(self._entry(number), ahead=ahead, let_go=let_go)

    def path(self, number: int) -> Path:
        """Where a shard that is used in place lies."""
        assert self._store.folder is not None  # noqa: S101  (only local sets are in place)
        return self._store.folder / self.shards.names[number]

    def check(self, number: int) -> None:
        """Compare every byte of a shard that is used in place with the manifest. The cache has verified its own.

        Raises: CorruptShard.
        """
        if self._store.folder is None or not self.in_place:
            return
        problem = check_plain(self.shards[number], self._store.folder / self.shards[number].name)
        if problem:
            raise CorruptShard(f"{self.where(number)}: {problem}; {COPY_AGAIN}")

    def release(self, number: int) -> None:
        """Let the cache evict a file that was obtained."""
        if self._cache is not None:
            self._cache.release(self._key(number))

    def traffic(self) -> dict[str, int]:
        """Counts of requests, retries, bytes, and the cache's hits and misses so far, for the log."""
        if self._cache is None:
            return {}
        traffic, counts = self._store.traffic, self._cache.counts
        return {
            "requests": traffic.requests,
            "retries": traffic.retries,
            "fetched_bytes": traffic.bytes,
            "cache_hits": counts.hits,
            "cache_misses": counts.misses,
            "made": counts.made,
            "refetched": counts.refetched,
            "evicted": counts.evicted,
        }

    def _key(self, number: int) -> str:
        """The shard's name in the cache: its checksum, so that sets and runs use the same file."""
        return f"{self.shards.sha256[number]}{'.tar' if self._compression == 'none' else '.plain.tar'}"

    def _entry(self, number: int) -> Entry:
        shard = self.shards[number]
        return Entry(
            key=self._key(number),
            size=shard.plain_bytes,
            extra=shard.bytes if self._compression != "none" and self._store.folder is None else 0,
            make=lambda path: self._make(shard, path),
            check=lambda path: check_plain(shard, path),
        )

    def _make(self, shard: Shard, path: Path) -> None:
        if self._compression == "none":
            self._store.download(shard.name, shard.bytes, path)
            return
        if self._store.folder is not None:
            stored = self._store.folder / shard.name
            if not stored.is_file():
                raise MissingShard(f"{stored}: named in the manifest but not there; copy it again or pack the set anew")
            unpack_shard(shard, self._compression, stored, path)
            return
        stored = beside(path)
        try:
            self._store.download(shard.name, shard.bytes, stored)
            unpack_shard(shard, self._compression, stored, path)
        finally:
            stored.unlink(missing_ok=True)


Listing = Callable[[], Mapping[str, int]]
"""Gives the size of each object of a store."""


def list_ahead(store: Store) -> Listing:
    """The store's `list`; of a remote store it is under way from now on, so that it takes no time of its own."""
    if store.folder is not None or not store.can_list:
        return store.list
    return Workers(1).submit(store.list).result


def check_listing(store: Store, manifest: Manifest, split: str, listing: Listing) -> None:
    """Before the first read, refuse tars that do not match the manifest.

    Their content is checked when it is fetched. A web server does not list its files, and an account may be allowed to
    read but not to list: then a missing shard is noticed only when it is needed.

    Raises: MissingShard, ChangedShard.
    """
    if not store.can_list:
        return
    try:
        found = {name: size for name, size in listing().items() if name.endswith(".tar")}
    except StorageError as error:
        warnings.warn(
            f"cannot list the shards; a missing one is noticed when it is read: {error}", UserWarning, stacklevel=2
        )
        return
    if store.folder is None or manifest.compression != "none":  # others are all mapped at once
        _compare(store, found, manifest.splits[split].table)
    if not manifest.base:
        known = {name for part in manifest.splits.values() for name in part.table.names}
        _refuse_strangers(store, sorted(found.keys() - known))


def _compare(store: Store, found: Mapping[str, int], shards: ShardTable) -> None:
    for name, expected in zip(shards.names, shards.bytes.tolist(), strict=True):
        size = found.get(name)
        if size is None:
            remedy = "copy or push the set again"
            raise MissingShard(f"{store.url(name)}: named in the manifest but not there; {remedy}")
        if size != expected:
            remedy = "not the shard that dataset.json describes; copy or push the set again"
            raise ChangedShard(f"{store.url(name)}: {size} bytes, expected {expected}: {remedy}")


def _refuse_strangers(store: Store, names: Sequence[str]) -> None:
    """Raise ChangedShard: these are another set's shards, or `dataset.json` is older than they are."""
    if names:
        found = f"not one of the shards in dataset.json ({len(names)} such)"
        raise ChangedShard(f"{store.url(names[0])}: {found}; remove it, or get the dataset.json that belongs to it")
