"""Labels, originals and samples by class: the same from columns, from older shards, in place, and through the cache."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from shards import CorruptShard, SampleOrder, Samples, ShardSet, read_manifest, write_shard
from shards.cache.cache import Cache
from shards.format.columns import column_files
from shards.format.manifest import MANIFEST_NAME
from shards.read.columns import SplitColumns
from shards.read.files import SplitFiles
from shards.store.store import open_store
from tests.shards.kinds import KINDS, Kind, as_older, drawn, without_columns, write_set_of

BLOCKS = [drawn(9), drawn(5, 1)]
LABELS = np.concatenate([block.labels for block in BLOCKS])
SOURCES = np.concatenate([block.sources for block in BLOCKS])
ROOM = 1 << 20


def streamed(folder: Path, cache: Path) -> tuple[SplitColumns, Cache]:
    """Columns of a set whose folder stands for a bucket."""
    store, manifest, kept = open_store(folder), read_manifest(folder), Cache(cache, ROOM)
    store.folder = None
    files = SplitFiles(store, manifest, "train", kept)
    return SplitColumns(store, store, manifest, "train", files, kept), kept


def assert_right(columns: SplitColumns) -> None:
    assert np.array_equal(columns.labels(), LABELS)
    assert np.array_equal(columns.sources(), SOURCES) and columns.sources().dtype == np.uint64
    assert np.array_equal(columns.by_class(), np.argsort(LABELS, kind="stable"))
    assert columns.by_class().dtype == np.uint32


@pytest.mark.parametrize("older", [False, True], ids=["columns", "older"])
@pytest.mark.parametrize("kind", KINDS)
def test_sets_of_every_kind_and_version(tmp_path: Path, kind: Kind, older: bool) -> None:
    folder = write_set_of(tmp_path / "set", kind, {"train": BLOCKS})
    if older:
        as_older(folder)
    (tmp_path / "cache").mkdir()
    reader = ShardSet(folder, cache=Cache(tmp_path / "cache", ROOM)).split("train")
    assert_right(reader.columns)
    assert np.array_equal(reader.labels(), LABELS) and np.array_equal(reader.sources(), SOURCES)
    assert_right(streamed(folder, tmp_path / "cache")[0])


def test_a_node_fetches_a_column_once(tmp_path: Path) -> None:
    folder, cache = write_set_of(tmp_path / "set", "zstd", {"train": BLOCKS}), tmp_path / "cache"
    cache.mkdir()
    first, kept = streamed(folder, cache)
    labels = first.labels()
    assert (kept.counts.made, kept.counts.misses) == (1, 1)
    again, shared = streamed(folder, cache)
    assert np.array_equal(again.labels(), labels) and (shared.counts.made, shared.counts.hits) == (0, 1)
    shutil.rmtree(cache)  # evicted: a mapping outlives its file's name
    assert np.array_equal(labels, LABELS)


def test_columns_in_place_are_mapped_and_not_copied(tmp_path: Path) -> None:
    folder = write_set_of(tmp_path / "set", "none", {"train": BLOCKS})
    reader = ShardSet(folder).split("train")
    held = [reader.labels(), reader.sources(), reader.columns.by_class()]
    maps = Path("/proc/self/maps").read_text()
    for file, values in zip(column_files(read_manifest(folder)), held, strict=True):
        assert f"{folder}/{file.name}" in maps and not values.flags.owndata


def test_labels_are_read_without_the_shards(tmp_path: Path) -> None:
    folder = write_set_of(tmp_path / "set", "none", {"train": BLOCKS})
    reader = ShardSet(folder).split("train")
    (folder / "train-00000.tar").unlink()
    assert_right(reader.columns)


@pytest.mark.parametrize("labels", [[0, 1, 1], [0, 1, 3], [0, 1, -1]])
def test_an_older_set_whose_labels_its_manifest_does_not_count(tmp_path: Path, labels: list[int]) -> None:
    folder = as_older(write_set_of(tmp_path / "set", "none", {"train": [drawn(3)]}))
    stored = write_shard(folder / "train-00000.tar", [drawn(3)])
    damaged = drawn(3)._replace(labels=np.array(labels, np.int32))
    data = (folder / "train-00000.tar").read_bytes()
    good, bad = (part.labels.astype("<i4").tobytes() for part in (drawn(3), damaged))
    assert data.count(good) == 1 and stored.samples == 3
    (folder / "train-00000.tar").write_bytes(data.replace(good, bad))
    with pytest.raises(CorruptShard, match=r"shards of train: .*label.*; run `kkanji verify` on it"):
        ShardSet(folder).split("train").columns.by_class()


def test_a_set_of_before_columns_keeps_its_bytes(tmp_path: Path) -> None:
    """Checkpoints compare identities, so reading must not change one."""
    folder = as_older(write_set_of(tmp_path / "set", "none", {"train": BLOCKS}))
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    found = ShardSet(folder)
    assert found.manifest.to_json() == text and found.manifest == without_columns(found.manifest)
    numbers = SampleOrder(samples=14, seed=0).at(0, 14)
    samples: Samples = found.split("train").gather(numbers)
    assert np.array_equal(samples.labels, LABELS[numbers])
