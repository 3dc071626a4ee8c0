"""The listing of a remote set: asked for while the manifest is read, compared before the first sample."""

from pathlib import Path
from threading import Event

import pytest

from shards import MissingShard, ShardSet, StorageError
from shards.cache.cache import Cache
from shards.read import shard_set
from shards.store.store import FolderStore

PATIENCE_S = 20


class FarStore(FolderStore):
    """A folder that passes for a bucket. Its manifest arrives only once the listing was asked for, and the reverse."""

    def __init__(self, folder: Path, missing: str = "", refused: bool = False) -> None:
        super().__init__(folder)
        self.folder = None
        self._missing, self._refused = missing, refused
        self._reading, self._listing = Event(), Event()

    def read(self, name: str) -> bytes:
        self._reading.set()
        assert self._listing.wait(PATIENCE_S)
        return super().read(name)

    def list(self) -> dict[str, int]:
        self._listing.set()
        assert self._reading.wait(PATIENCE_S)
        if self._refused:
            raise StorageError("403 from a server")
        return {name: size for name, size in super().list().items() if name != self._missing}


def opened(store: FarStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    monkeypatch.setattr(shard_set, "open_store", lambda _: store)
    return ShardSet("s3://bucket/set", cache=Cache(folder / "cache", 1 << 30))


def test_opening_takes_one_round_trip(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(FarStore(tiny_set), tmp_path, monkeypatch)
    assert {name: found.split(name).samples for name in ("train", "val")} == {
        name: ShardSet(tiny_set).split(name).samples for name in ("train", "val")
    }


def test_a_missing_shard_is_named_before_the_first_sample(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(FarStore(tiny_set, missing="train-00000.tar"), tmp_path, monkeypatch)
    with pytest.raises(MissingShard, match=r"train-00000.tar: named in the manifest but not there"):
        found.split("train")


def test_a_listing_that_is_refused_is_a_warning(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = opened(FarStore(tiny_set, refused=True), tmp_path, monkeypatch)
    with pytest.warns(UserWarning, match="cannot list the shards; .*403 from a server"):
        assert found.split("val").samples
