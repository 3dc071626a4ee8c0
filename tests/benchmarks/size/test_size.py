"""The benchmark of a set's size: its sets are valid, and its costs have the complexity that they promise."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.chart import draw
from benchmarks.rows import read_result
from benchmarks.size.cached import cached
from benchmarks.size.fabricate import CLASSES, fabricate
from benchmarks.size.linked import link
from benchmarks.size.size import BILLION, computed, measured, size
from shards import InputError, Manifest, SampleOrder, ShardSet, verify
from shards.order.permutation import permute

FEW, MANY = 2, 14  # images of a class: one shard, and three


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("sizes")
    for per_class in (FEW, MANY):
        fabricate(folder / str(per_class), per_class)
    return {per_class: folder / str(per_class) for per_class in (FEW, MANY)}


def test_a_fabricated_set_is_valid_and_takes_no_disk(sets: dict[int, Path]) -> None:
    folder = sets[MANY]
    assert verify(folder).problems == ()
    shards = list(folder.glob("*.tar"))
    assert len(shards) == 3
    assert sum(path.stat().st_blocks * 512 for path in shards) < sum(path.stat().st_size for path in shards) / 20


def test_a_set_of_links_has_a_sets_training_images_many_times(sets: dict[int, Path], tmp_path: Path) -> None:
    linked = link(sets[FEW], tmp_path / "linked", 3)
    assert verify(tmp_path / "linked").problems == ()
    once, thrice = (ShardSet(folder).split("train").labels() for folder in (sets[FEW], tmp_path / "linked"))
    assert np.array_equal(thrice, np.tile(once, 3)) and linked.splits["train"].samples == 3 * FEW * CLASSES


class Calls:
    """Counts the calls of a function and the bytes that it returns."""

    def __init__(self, act: Callable[..., bytes]) -> None:
        self.count = self.bytes = 0
        self._act = act

    def __call__(self, *arguments: int) -> bytes:
        found = self._act(*arguments)
        self.count, self.bytes = self.count + 1, self.bytes + len(found)
        return found


@pytest.fixture
def preads(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls(os.pread)
    monkeypatch.setattr(os, "pread", calls)
    return calls


def test_opening_costs_two_reads_of_a_page_for_each_shard(sets: dict[int, Path], preads: Calls) -> None:
    """Whatever the number of images in a shard, and whatever the order."""
    for per_class, shards in ((FEW, 1), (MANY, 3)):
        preads.count = preads.bytes = 0
        reader = ShardSet(sets[per_class]).split("train")
        assert preads.count == 2 * shards and 0 < preads.bytes <= preads.count * 4096
        reader.labels()
        reader.columns.by_class()
        assert preads.count == 2 * shards  # columns cost no read of a shard


def test_an_order_looks_up_only_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a billion images as at ten, early and late."""
    asked: list[int] = []

    def counted(positions: NDArray[np.uint64], size: int, key: int) -> NDArray[np.uint64]:
        asked.append(len(positions))
        return permute(positions, size, key)

    monkeypatch.setattr("shards.order.sequential.permute", counted)
    for start in (0, 49 * BILLION + 12345):
        numbers = SampleOrder(samples=BILLION, seed=0).at(start, start + 100)
        assert len(np.unique(numbers)) == 100
    assert asked == [100, 100]


def test_a_manifest_grows_by_the_blocks_and_not_by_their_images(sets: dict[int, Path]) -> None:
    manifests: list[Manifest] = [ShardSet(folder).manifest for folder in sets.values()]
    texts = [len(json.dumps(json.loads(each.to_json())["splits"]["train"]["shards"])) for each in manifests]
    blocks = [int(each.splits["train"].table.block_counts.sum()) for each in manifests]
    a_shard, a_block = 64 + 40, 8 + 8  # checksum, name, sizes; images and checksum
    assert texts[1] - texts[0] <= (3 - 1) * a_shard + (blocks[1] - blocks[0]) * a_block


def test_the_benchmark_writes_rows_for_tables_and_a_chart(tmp_path: Path) -> None:
    output = tmp_path / "size.json"
    size(images=(CLASSES, 2 * CLASSES), repeats=1, sets=tmp_path, output=output)
    result = read_result(output)
    small, large, billion = result["rows"]
    assert (small["images"], large["images"], billion["images"]) == (CLASSES, 2 * CLASSES, BILLION)
    assert measured(result["rows"]) == [small, large] and billion["name"] == "1,000 M, computed"
    assert billion["labels s"] == pytest.approx(large["labels s"] * BILLION / (2 * CLASSES))
    assert billion == computed(large, BILLION) | {"full ns": billion["full ns"]}
    assert large["read per shard kB"] < 100
    (axes,) = draw(result, output).axes
    assert axes.get_ylabel() == "seconds"
    made = tmp_path / str(CLASSES) / "dataset.json"
    before = made.stat().st_mtime_ns
    size(images=(CLASSES,), repeats=1, sets=tmp_path, output=output)
    assert made.stat().st_mtime_ns == before and len(read_result(output)["rows"]) == 2


def test_sets_that_are_too_small_are_refused() -> None:
    with pytest.raises(InputError, match=r"--images 10 --repeats 5: expected sets of 3882 images or more"):
        size(images=(10,))


def test_a_cache_is_filled_once_for_all_its_processes(tmp_path: Path) -> None:
    """By the first; the others find each shard. Nothing of the cache stays."""
    lines = cached(3, tmp_path, processes=2)
    assert [line.split(":")[0] for line in lines] == [
        "filling",
        *("mapping", "micro-batches of 125"),
        *("mapping", "micro-batches of 500"),
        *("mapping", "micro-batches of 6,250"),
        *("process 1 of 2", "process 2 of 2"),
    ]
    assert all(line.endswith("; 3 hits, 0 misses, 0 made, 0 evicted") for line in lines[-2:])
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
