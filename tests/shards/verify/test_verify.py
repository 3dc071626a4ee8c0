"""Verification: a clean set is clean, and no damage to it goes unseen."""

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import CorruptShard, Lineage, MissingShard, Samples, read_manifest, regular_files, verify, write_shard
from shards.format.manifest import COLUMNS
from shards.verify.shard import byte_problems
from tests.shards.kinds import as_older

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]


@pytest.fixture(scope="module")
def clean(make_samples: MakeSamples, write_set: WriteSet) -> Path:
    return write_set({"train": make_samples(9), "val": make_samples(9, 1)}, [[3, 2], [4]])


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    """The clean set again, to be damaged."""
    return shutil.copytree(clean, tmp_path / "set")


def problems(folder: Path) -> str:
    return "\n".join(verify(folder).problems)


def flips(path: Path, *, every_bit: bool) -> Iterator[tuple[int, int]]:
    """Flips one bit of each byte after another (another one each time), or every bit, and mends it again."""
    whole = path.read_bytes()
    descriptor = os.open(path, os.O_WRONLY)
    for position, byte in enumerate(whole):
        for bit in range(8) if every_bit else (position * 5 % 8,):
            os.pwrite(descriptor, bytes([byte ^ 1 << bit]), position)
            yield position, bit
        os.pwrite(descriptor, bytes([byte]), position)
    os.close(descriptor)


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    """Change a set's manifest."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_clean_set_is_clean(clean: Path) -> None:
    told: list[int] = []
    found = verify(clean, progress=told.append)
    assert found.problems == ()
    assert found.samples == 18
    assert found.bytes == sum(path.stat().st_size for path in clean.glob("*.tar")) == sum(told)


def test_a_set_without_shards_is_clean(make_samples: MakeSamples, write_set: WriteSet) -> None:
    folder = write_set({"train": make_samples(0), "val": make_samples(0)}, [])
    assert verify(folder).problems == ()
    assert verify(write_set({"train": make_samples(0)}, [[]])).problems == ()


def test_no_flipped_bit_of_a_shard_goes_unseen(make_samples: MakeSamples, write_set: WriteSet) -> None:
    """Pixels, labels, sources, all headers, all padding. The place named is the block that the bit is in."""
    folder = write_set({"train": make_samples(2)}, [[1, 1]])
    shard = read_manifest(folder).splits["train"].shards[0]
    first, second = shard.blocks
    for position, _ in flips(folder / shard.name, every_bit=False):
        found = [*byte_problems(shard.name, folder / shard.name, shard, lambda _: None)]
        assert "train-00000.tar: sha256" in found[-1], position
        number = 0 if position < second.offset else 1
        if position < second.offset + second.bytes:
            assert f"block {number:06d} at byte {(first, second)[number].offset}: crc32" in found[0], position
    assert problems(folder) == ""


def test_a_flipped_bit_is_a_problem_of_the_set(folder: Path) -> None:
    for position, _ in itertools.islice(flips(folder / "val-00001.tar", every_bit=False), 0, None, 501):
        assert "val-00001.tar: sha256" in problems(folder), position
    assert problems(folder) == ""


def test_no_flipped_bit_of_an_index_goes_unseen(folder: Path) -> None:
    for position, bit in flips(folder / "train-00000.idx", every_bit=True):
        assert "train-00000.idx: not the DALI index of its shard" in problems(folder), (position, bit)


@pytest.mark.parametrize("bytes_more", [-4096, -1, 1, 4096])
def test_a_short_or_long_shard(folder: Path, bytes_more: int) -> None:
    path = folder / "val-00001.tar"
    size = path.stat().st_size
    os.truncate(path, size + bytes_more)
    assert problems(folder) == f"{path}: {size + bytes_more} bytes, expected {size}"


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.idx"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert problems(folder).startswith(f"{folder / name}: No such file or directory")


def refusing(name: str, opened: Callable[..., Any]) -> Callable[..., Any]:
    """Opens any other file."""

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if Path(path).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *arguments, **options)

    return refuse


@pytest.mark.parametrize("name", ["train-00001.tar", "train-00001.idx"])
def test_a_file_that_the_disk_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whether it is read as a whole or in parts."""
    for place, method in ((Path, "open"), (regular_files, "open_regular")):
        monkeypatch.setattr(place, method, refusing(name, getattr(place, method)))
    assert problems(folder).startswith(f"{folder / name}: Input/output error")


@pytest.mark.parametrize("name", ["train-00002.tar", "test-00000.idx", "old.json"])
def test_a_stranger(folder: Path, name: str) -> None:
    (folder / name).touch()
    assert problems(folder) == f"{folder / name}: not part of this set; remove it"


def test_people_may_keep_notes_beside_a_set(folder: Path) -> None:
    (folder / "README.txt").touch()
    assert problems(folder) == ""


def test_a_shard_in_the_place_of_another(folder: Path) -> None:
    shutil.copy(folder / "val-00000.tar", folder / "train-00000.tar")
    assert "train-00000.tar: block 000000 at byte 0: crc32" in problems(folder)


def test_a_label_outside_the_classes(write_set: WriteSet, make_samples: MakeSamples) -> None:
    samples = make_samples(3)
    folder = write_set({"train": samples}, [[3]])
    labels = np.array([samples.labels[0], 7, samples.labels[2]])
    replace_shard(folder, Samples(samples.images, labels, samples.sources))
    assert problems(folder) == "train: sample 1 has label 7, expected 0..6"


def replace_shard(folder: Path, samples: Samples) -> None:
    """Put other samples into a set of one shard and no columns, with right checksums."""
    as_older(folder)
    shard = write_shard(folder / "train-00000.tar", [samples])
    block = shard.blocks[0]

    def change(content: Any) -> None:
        entry = content["splits"]["train"]["shards"][0]
        entry.update(sha256=shard.sha256, blocks=[[block.offset, block.bytes, block.samples, block.crc32]])

    edit(folder, change)


def test_wrong_counts_of_images(write_set: WriteSet, make_samples: MakeSamples) -> None:
    samples = make_samples(3)._replace(labels=np.array([1, 1, 2]))
    folder = write_set({"train": samples}, [[3]])
    edit(folder, lambda content: content["splits"]["train"].update(samples_per_class=[0, 2, 0, 1, 0, 0, 0]))
    edit(folder, lambda content: content["splits"]["train"].update(originals_per_class=[0, 2, 0, 1, 0, 0, 0]))
    assert "train: class 2 has 1 samples, expected 0" in problems(folder)


def test_wrong_counts_of_originals(write_set: WriteSet, make_samples: MakeSamples) -> None:
    sources = np.array([5, 5, 5, 9, 9, 5], np.uint64)
    samples = make_samples(6)._replace(labels=np.array([1, 1, 1, 1, 4, 4]), sources=sources)
    folder = write_set({"train": samples}, [[6]])
    assert read_manifest(folder).splits["train"].originals_per_class == (0, 2, 0, 0, 2, 0, 0)
    assert problems(folder) == ""
    edit(folder, lambda content: content["splits"]["train"].update(originals_per_class=[0, 3, 0, 0, 2, 0, 0]))
    assert problems(folder) == "train: class 1 has 2 originals, expected 3"


def with_a_leak(make_samples: MakeSamples) -> dict[str, Samples]:
    """One original in train and val, and another in val and test."""
    train, val, test = (make_samples(9, seed) for seed in range(3))
    val.sources[4], test.sources[0] = train.sources[7], val.sources[2]
    return {"train": train, "val": val, "test": test}


def test_an_original_in_two_splits(write_set: WriteSet, make_samples: MakeSamples) -> None:
    samples = with_a_leak(make_samples)
    shared = (samples["val"].sources[2], samples["train"].sources[7])
    assert verify(write_set(samples, [[9]])).problems == (
        f"1 originals are in both test and val, for example {shared[0]:016x}",
        f"1 originals are in both train and val, for example {shared[1]:016x}",
    )


@pytest.mark.parametrize("column", COLUMNS)
def test_no_flipped_bit_of_a_column_goes_unseen(folder: Path, column: str) -> None:
    path = folder / f"val.{column}.npy"
    for position, _ in itertools.islice(flips(path, every_bit=False), 0, None, 7):
        assert problems(folder).startswith(f"{path}: sha256 "), position
    path.unlink()
    assert problems(folder).startswith(f"{path}: named in dataset.json but not there")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_contradicts_the_shards(folder: Path, column: str) -> None:
    """With a right checksum: only the shards can tell."""
    path = folder / f"train.{column}.npy"
    values = np.load(path)
    values[[2, 3]] = values[[3, 2]] if values[2] != values[3] else values[[2, 3]] + np.array([1, 0], values.dtype)
    np.save(path, values)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(folder, lambda content: content["splits"]["train"]["columns"].update({column: sha256}))
    assert problems(folder) == f"{path}: not the {column} of the split's shards; make the set again"


def test_damaged_columns_and_shards_are_all_named(folder: Path) -> None:
    for name in ("train-00000.tar", "train.labels.npy", "val-00001.tar"):
        data = bytearray((folder / name).read_bytes())
        data[130] ^= 1
        (folder / name).write_bytes(data)
    assert [line.partition(":")[0] for line in problems(folder).splitlines()] == [
        *[str(folder / "train-00000.tar")] * 2,
        str(folder / "train.labels.npy"),
        *[str(folder / "val-00001.tar")] * 2,
    ]


def test_unknown_lineage_proves_nothing_about_leaks(write_set: WriteSet, make_samples: MakeSamples) -> None:
    assert verify(write_set(with_a_leak(make_samples), [[9]], lineage=Lineage.UNKNOWN)).problems == ()


def test_without_a_readable_manifest(folder: Path) -> None:
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(CorruptShard, match=r"dataset.json: not a shard set"):
        verify(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(MissingShard, match=r"no dataset.json"):
        verify(folder)
