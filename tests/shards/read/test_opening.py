"""Opening a split in place costs a few kilobytes a shard, however many images a shard has, and no more maps than there
are; what it looks at tells another version of a shard from the manifest's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shards import ChangedShard, InputError, Samples, ShardSet
from shards.format import layout
from shards.read import opening
from tests.shards.kinds import as_older

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]

MOST_READ = 8192 + 4096  # bytes of a shard: what its last block begins with, its last originals; and of the folder


def bytes_read(act: Callable[[], object]) -> int:
    """Bytes that this process read by system calls meanwhile."""

    def counter() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))

    before = counter()
    act()
    return counter() - before


@pytest.mark.parametrize("images", [1, 1250])
def test_opening_reads_a_few_kilobytes_of_each_shard(
    make_samples: MakeSamples, write_set: WriteSet, images: int
) -> None:
    """So does a set of 25,000 images a shard; before, the whole last block of each was read: 5 MB."""
    folder = write_set({"train": make_samples(4 * images)}, [[images]] * 4)
    data = ShardSet(folder)
    assert 0 < bytes_read(lambda: data.split("train")) <= 4 * MOST_READ + 65536
    assert bytes_read(lambda: data.split("train")) < 8 * MOST_READ  # the second time nothing is imported


def test_a_shard_whose_last_block_is_of_another_size(make_samples: MakeSamples, write_set: WriteSet) -> None:
    """Without columns too."""
    folder = as_older(write_set({"train": make_samples(6)}, [[3, 3]]))
    path = folder / "train-00000.tar"
    data = path.read_bytes()
    head = layout.images_head("000001", 3)
    assert data.count(head) == 1
    path.write_bytes(data.replace(head, layout.images_head("000001", 2).ljust(len(head))))
    with pytest.raises(
        ChangedShard,
        match=r"train-00000.tar: other bytes at byte \d+, expected a block of 3 images: not the shard that",
    ):
        ShardSet(folder).split("train")


def test_a_shard_packed_anew_differs_in_its_last_originals(
    make_samples: MakeSamples, write_set: WriteSet, tmp_path: Path
) -> None:
    folder = shutil.copytree(write_set({"train": make_samples(700)}, [[700]]), tmp_path / "set")
    other = write_set({"train": make_samples(700, 1)}, [[700]])
    shutil.copy(other / "train-00000.tar", folder / "train-00000.tar")
    with pytest.raises(
        ChangedShard, match=r"train-00000.tar: other originals at byte \d+, expected those in the set's column"
    ):
        ShardSet(folder).split("train")
    shutil.copy(other / "train.sources.npy", folder / "train.sources.npy")
    assert ShardSet(folder).split("train").samples == 700  # the column's own checksum is compared when it is used
    with pytest.raises(InputError, match=r"train.sources.npy: sha256"):
        ShardSet(folder).split("train").sources()


def test_more_shards_than_the_machine_maps_are_refused_before_the_first(
    make_samples: MakeSamples, write_set: WriteSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set({"train": make_samples(3)}, [[1]] * 3)
    (tmp_path / "limit").write_text(f"{opening.RESERVE + 2}\n")
    monkeypatch.setattr(opening, "MAP_LIMIT", tmp_path / "limit")
    found = r"set: 3 shards, but this machine maps 2 files at most; raise vm.max_map_count above 1027, or pack"
    with pytest.raises(InputError, match=found):
        ShardSet(folder).split("train")
    assert str(folder) not in Path("/proc/self/maps").read_text()
    (tmp_path / "limit").write_text(f"{opening.RESERVE + 3}\n")
    assert ShardSet(folder).split("train").samples == 3


def test_descriptors_are_closed(make_samples: MakeSamples, write_set: WriteSet) -> None:
    folder = write_set({"train": make_samples(9)}, [[1]] * 9)
    ShardSet(folder).split("train")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ShardSet(folder).split("train").labels()
    assert len(os.listdir("/proc/self/fd")) <= before
