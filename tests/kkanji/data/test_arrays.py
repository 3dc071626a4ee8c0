"""A set written from arrays is a set like any other."""

from pathlib import Path

import numpy as np
import pytest

from kkanji import class_map, open_set, write_set
from kkanji.data.arrays import BLOCKS_A_SHARD
from shards import InputError, Lineage, verify


def arrays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 64, 64), np.uint8), rng.integers(0, 3, count)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    images, labels = arrays(125 * BLOCKS_A_SHARD + 200)
    write_set(tmp_path / "set", {"train": (images, labels), "val": arrays(7, 1)}, "一二三", name="mine", block_size=125)
    assert verify(tmp_path / "set").problems == ()
    data = open_set(tmp_path / "set")
    assert class_map(data).characters == ("一", "二", "三") and data.manifest.lineage == Lineage.UNKNOWN
    train = data.split("train")
    found = train.gather(np.arange(train.samples))
    assert np.array_equal(found.images, images) and np.array_equal(found.labels, labels)
    sources = np.concatenate([found.sources, data.split("val").sources()])
    assert len(data.manifest.splits["train"].shards) == 2 and len(np.unique(sources)) == len(labels) + 7


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, labels = arrays(10)
    with pytest.raises(InputError, match="expected uint8"):
        write_set(tmp_path / "set", {"train": (images.astype(float), labels)}, "一二三", name="mine")
    with pytest.raises(InputError):
        write_set(tmp_path / "set", {"train": (images, labels)}, "一", name="mine")
    assert not (tmp_path / "set").exists()
