"""A set that is not used in place gives the same samples as one that is, through a cache of any size.

Compressed sets on the disk stand for remote ones here: they go the same way, without a server.
"""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shards import CorruptShard, InputError, MissingShard, Order, SampleOrder, Samples, ShardSet, SplitReader
from shards import WindowedOrder as Windowed
from shards.cache.cache import Cache

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]

BLOCKS = [[5, 5, 2]] * 6
SAMPLES = 72
FULL = SampleOrder(samples=SAMPLES, seed=0)


@pytest.fixture(scope="module")
def samples(make_samples: MakeSamples) -> Samples:
    return make_samples(SAMPLES)


@pytest.fixture(scope="module")
def packed(write_set: WriteSet, samples: Samples) -> Path:
    return write_set({"train": samples}, BLOCKS, compression="zstd")


def open_reader(folder: Path, cache: Path, shards: float = 100) -> SplitReader:
    """With room for so many shards."""
    size = ShardSet(folder).manifest.splits["train"].shards[0].plain_bytes
    return ShardSet(folder, cache=Cache(cache, int(shards * size), wait_s=20)).split("train", threads=2)


def stream(reader: SplitReader, order: Order, batch: int, epochs: int = 2) -> Samples:
    """All samples of some epochs, as training gathers them."""
    starts = range(0, epochs * order.samples, batch)
    spans = [(start, min(start + batch, epochs * order.samples)) for start in starts]
    found = [reader.gather(numbers) for numbers in reader.follow(order.at(*each) for each in spans)]
    return Samples(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def assert_streams(reader: SplitReader, samples: Samples, order: Order, batch: int) -> None:
    numbers = order.at(0, 2 * order.samples)
    assert_same(stream(reader, order, batch), samples, numbers)


def assert_same(found: Samples, samples: Samples, numbers: NDArray[np.int64]) -> None:
    assert np.array_equal(found.images, samples.images[numbers])
    assert np.array_equal(found.labels, samples.labels[numbers])
    assert np.array_equal(found.sources, samples.sources[numbers])


def test_shuffled_as_a_whole(packed: Path, samples: Samples, tmp_path: Path) -> None:
    reader = open_reader(packed, tmp_path)
    assert_streams(reader, samples, FULL, 7)
    traffic = reader.traffic()
    assert (traffic["made"], traffic["evicted"], traffic["refetched"]) == (6, 0, 0)


@pytest.mark.parametrize("batch", [1, 5, 20])
@pytest.mark.parametrize("window", [1, 2])
def test_through_a_cache_smaller_than_the_set(
    packed: Path, samples: Samples, tmp_path: Path, window: int, batch: int
) -> None:
    room = 2 * window + 1
    reader = open_reader(packed, tmp_path, room)
    assert_streams(reader, samples, Windowed([12] * 6, seed=1, window=window), batch)
    assert held_bytes(tmp_path) <= room * (packed / "train-00000.tar").stat().st_size
    assert reader.traffic()["evicted"] > 0


def held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_an_order_that_the_cache_cannot_serve_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a batch draws on 6 shards.*--order windowed"):
        stream(open_reader(packed, tmp_path, 3), FULL, 40)


def test_labels_and_sources_of_all_samples(packed: Path, samples: Samples, tmp_path: Path) -> None:
    reader = open_reader(packed, tmp_path, 2)
    assert np.array_equal(reader.labels(), samples.labels)
    assert np.array_equal(reader.sources(), samples.sources)


def test_a_few_samples_from_anywhere(packed: Path, samples: Samples, tmp_path: Path) -> None:
    numbers = np.array([70, 0, 33, 34, 0, 71, 12])
    assert_same(open_reader(packed, tmp_path, 1).collect(numbers), samples, numbers)
    assert len(open_reader(packed, tmp_path, 1).collect(numbers[:0]).labels) == 0


def test_what_is_not_at_hand_cannot_be_gathered(packed: Path, tmp_path: Path) -> None:
    """Rather than a segmentation fault."""
    reader = open_reader(packed, tmp_path)
    with pytest.raises(IndexError, match=r"train-00001.tar is not at hand; gather what `follow` gives back"):
        reader.gather(np.array([12]))
    stream = reader.follow([np.array([12])])
    assert len(reader.gather(next(stream)).labels) == 1


def test_two_processes_share_what_was_fetched(packed: Path, samples: Samples, tmp_path: Path) -> None:
    """Two caches on one folder, as ranks have."""
    readers = [open_reader(packed, tmp_path) for _ in range(2)]
    for reader in readers:
        assert_streams(reader, samples, FULL, 9)
    assert [reader.traffic()["made"] for reader in readers] == [6, 0]


def test_a_damaged_file_of_the_cache_is_made_again_once(packed: Path, samples: Samples, tmp_path: Path) -> None:
    assert_streams(open_reader(packed, tmp_path), samples, FULL, 9)
    path = sorted(tmp_path.glob("*.tar"))[2]
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    reader = open_reader(packed, tmp_path)
    with pytest.warns(RuntimeWarning, match=path.name):
        assert_streams(reader, samples, FULL, 9)
    assert (reader.traffic()["refetched"], reader.traffic()["made"]) == (1, 1)


def test_a_shard_damaged_where_it_lies_stops_the_run(write_set: WriteSet, samples: Samples, tmp_path: Path) -> None:
    damaged = write_set({"train": samples}, BLOCKS, output=tmp_path / "damaged", compression="lz4")
    path = damaged / "train-00003.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match=r"train-00003.tar"), pytest.raises(CorruptShard, match=r"train-00003.tar"):
        stream(open_reader(damaged, tmp_path / "cache"), FULL, 9)
    path.unlink()
    with pytest.raises(MissingShard, match=r"train-00003.tar"):
        stream(open_reader(damaged, tmp_path / "cache"), FULL, 9)


def test_neither_memory_nor_files_nor_threads_grow(packed: Path, tmp_path: Path) -> None:
    reader, order = open_reader(packed, tmp_path, 4), Windowed([12] * 6, seed=1, window=2)
    seen = []
    for epoch in range(20):
        for numbers in reader.follow(order.at(start, start + 8) for start in range(epoch * 72, epoch * 72 + 72, 8)):
            reader.gather(numbers)
        gc.collect()
        seen.append((resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert seen[-1][1:] == seen[1][1:]
    assert seen[-1][0] - seen[1][0] < 8 << 20


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
