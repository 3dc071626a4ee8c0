"""Columns: their bytes are pinned, they are what the shards have, and a set whose labels do not add up has none."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards import ChangedShard, CorruptShard, InputError, MissingShard, Samples, read_manifest, write_manifest
from shards.format.columns import ColumnFile, column_file, map_column
from shards.format.manifest import COLUMNS, MANIFEST_NAME
from tests.shards.kinds import CLASSES_JSON, KINDS, Kind, drawn, write_set_of

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]

# sha256 of what version 4 writes for the set below
GOLDEN = {
    "train.labels.npy": "90f7337fcf11ac7bd9b38abe76cbf74e34d5c1af9c9022565562268840e202cd",
    "train.sources.npy": "95c40c2e7d8eb031fa6c0c17fd5857b6e1b2ddfcd2e51a50bb13ea39590be247",
    "train.by_class.npy": "d6061cca2bfbb54f14f61c5d4501b501b5d654ab304acac83794b4a8190122ab",
    MANIFEST_NAME: "aa179a79bcf8a8f6f2ff09f7ad9312dfcfd8f98d600fb493f52296a104013f4f",
}


def column_of(folder: Path, column: str) -> ColumnFile:
    file = column_file(read_manifest(folder), "train", column)
    assert file is not None
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_what_the_shards_have(tmp_path: Path, kind: Kind) -> None:
    blocks = [drawn(9), drawn(5, 1), drawn(1, 2)]
    folder = write_set_of(tmp_path / "set", kind, {"train": blocks})
    labels, sources = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("labels", "sources"))
    expected = dict(zip(COLUMNS, (labels, sources, np.argsort(labels, kind="stable")), strict=True))
    types = dict(zip(COLUMNS, ("|i1", "<u8", "<u4"), strict=True))
    for column, values in expected.items():
        file = column_of(folder, column)
        found = map_column(folder / file.name, file)
        assert np.array_equal(found, values) and found.dtype.str == types[column] and not found.flags.writeable
        assert np.array_equal(np.load(folder / file.name), values)  # as anybody reads them


def test_bytes_never_change_unnoticed(tmp_path: Path) -> None:
    black = [block._replace(images=np.zeros_like(block.images)) for block in (drawn(9), drawn(5, 1))]
    folder = write_set_of(tmp_path / "set", "none", {"train": black})
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in GOLDEN} == GOLDEN


def test_labels_have_the_smallest_type_that_holds_the_classes(tmp_path: Path) -> None:
    folder = write_set_of(tmp_path / "set", "none", {"train": [drawn(4)]})
    manifest = read_manifest(folder)
    for classes, dtype in ((128, "|i1"), (129, "<i2"), (32_769, "<i4")):
        counts = (*manifest.splits["train"].samples_per_class, *(0,) * (classes - manifest.classes))
        split = replace(manifest.splits["train"], samples_per_class=counts, originals_per_class=counts)
        wider = write_manifest(folder, replace(manifest, classes=classes, splits={"train": split}), CLASSES_JSON)
        file = column_file(wider, "train", "labels")
        assert file is not None and file.dtype.str == dtype
        assert np.array_equal(map_column(folder / file.name, file), drawn(4).labels)


@pytest.mark.parametrize("column", COLUMNS)
def test_no_damage_to_a_column_goes_unseen(tmp_path: Path, column: str) -> None:
    folder = write_set_of(tmp_path / "set", "none", {"train": [drawn(9)]})
    file = column_of(folder, column)
    path = folder / file.name
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CorruptShard, match=rf"{file.name}: sha256 \w+, expected {file.sha256}; copy or make"):
            map_column(path, file)
    for size in (0, len(whole) - 1, len(whole) + 1):
        path.write_bytes(whole[:size].ljust(size))
        with pytest.raises(ChangedShard, match=f"{file.name}: {size} bytes, expected {len(whole)}; copy or make"):
            map_column(path, file)
    path.unlink()
    with pytest.raises(MissingShard, match=f"{file.name}: named in dataset.json but not there; copy or make"):
        map_column(path, file)


def test_a_column_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Whoever made the manifest too may have given it a right checksum."""
    folder = write_set_of(tmp_path / "set", "none", {"train": [drawn(9)]})
    file = column_of(folder, "sources")
    np.save(folder / file.name, np.zeros((9, 1), np.uint64))
    forged = file._replace(sha256=hashlib.sha256((folder / file.name).read_bytes()).hexdigest())
    with pytest.raises(CorruptShard, match="no npy file of 9 uint64"):
        map_column(folder / file.name, forged)


def test_labels_that_the_manifest_does_not_count_are_refused(tmp_path: Path) -> None:
    folder = write_set_of(tmp_path / "set", "none", {"train": [drawn(9)]})
    before = (folder / MANIFEST_NAME).read_bytes()
    manifest = read_manifest(folder)
    split = replace(manifest.splits["train"], samples_per_class=(4, 2, 3), originals_per_class=(0, 0, 0))
    with pytest.raises(InputError, match="split train: class 0 has 3 samples, expected 4"):
        write_manifest(folder, replace(manifest, splits={"train": split}), CLASSES_JSON)
    fewer = replace(split, samples_per_class=(4, 5), originals_per_class=(0, 0))
    with pytest.raises(InputError, match=r"split train: sample 2 has label 2, expected 0\.\.1"):
        write_manifest(folder, replace(manifest, classes=2, splits={"train": fewer}), CLASSES_JSON)
    assert (folder / MANIFEST_NAME).read_bytes() == before


def test_labels_that_are_not_where_the_manifest_says(make_samples: MakeSamples, write_set: WriteSet) -> None:
    folder = write_set({"train": make_samples(6)}, [[3, 3]])
    manifest = read_manifest(folder)
    start = manifest.splits["train"].shards[0].blocks[1].offset
    descriptor = os.open(folder / "train-00000.tar", os.O_WRONLY)
    os.pwrite(descriptor, bytes(4096), start + 4096 + 3 * 4096)
    os.close(descriptor)
    with pytest.raises(CorruptShard, match=r"train-00000.tar: byte \d+: expected the labels of 3 images; copy or make"):
        write_manifest(folder, manifest, CLASSES_JSON)
