"""The background check of a set: whatever bit is flipped, the run is told; what was verified is not read again."""

import os
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator

from kkanji.config import train_config
from kkanji.data.training_set import open_set, training_order
from kkanji.training.data_check import DataCheck
from shards import CorruptShard, StorageError, read_manifest
from shards.cache.cache import Cache
from shards.format import layout
from shards.read.files import SplitFiles
from tests.faults.flips import flipped, places
from tests.shards.kinds import Kind, drawn, write_set_of

SPLITS = ("train", "val")


def set_of(folder: Path, kind: Kind) -> Path:
    return write_set_of(folder, kind, {name: [drawn(4, number) for number in range(5)] for name in SPLITS})


@pytest.mark.parametrize("kind", ["none", "png"])
def test_a_flipped_bit_anywhere_is_reported(tmp_path: Path, kind: Kind) -> None:
    folder, accelerator = set_of(tmp_path / "set", kind), Accelerator(cpu=True)
    data, tried = open_set(folder), 0
    for name, place in places(read_manifest(folder)):
        with (
            flipped(folder / name, place),
            DataCheck(accelerator, data, *SPLITS) as check,
            pytest.raises(CorruptShard, match=rf"{name}: .*; copy it again or pack the set anew"),
        ):
            check.finish()
        tried += 1
    assert tried > 80
    with DataCheck(accelerator, data, *SPLITS) as check:
        check.finish()
        assert check.problem is None


def test_ranks_of_a_node_share_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three shards is checked by one of two."""
    data, checked = open_set(set_of(tmp_path / "set", "none")), []
    monkeypatch.setattr(SplitFiles, "check", lambda files, number: checked.append(files.where(number)))
    for part in range(2):
        assert data.check_in_background(*SPLITS, part=part, of=2).finished(wait_s=60)
        assert len(checked) == part + 1
    assert sorted(checked) == [f"{data.location}/{name}-00000.tar" for name in SPLITS]


def test_the_cache_has_checked_what_it_brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "cache"))
    data = open_set(set_of(tmp_path / "set", "zstd"))
    assert isinstance(data.cache, Cache)
    (tmp_path / "set" / "train-00000.tar").unlink()
    with DataCheck(Accelerator(cpu=True), data, *SPLITS) as check:
        check.finish()


@pytest.mark.parametrize("error", [StorageError("the disk is gone"), MemoryError("none left")])
def test_what_could_not_be_checked_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    data = open_set(set_of(tmp_path / "set", "none"))
    monkeypatch.setattr(SplitFiles, "check", fail)
    with DataCheck(Accelerator(cpu=True), data, *SPLITS) as check, pytest.raises(CorruptShard, match=str(error)):
        check.finish()


def test_the_thread_has_less_priority_than_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    data = open_set(set_of(tmp_path / "set", "none"))
    monkeypatch.setattr(SplitFiles, "check", lambda *_: seen.append(os.getpriority(os.PRIO_PROCESS, 0)))
    assert data.check_in_background("train").finished(wait_s=60)
    assert seen == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)]


@pytest.mark.parametrize("bit", [0, 7, 30, 31])
def test_a_flipped_label_is_no_traceback_of_the_balanced_order(tmp_path: Path, bit: int) -> None:
    """Labels are looked at before the first step, and a number of images beyond 2**30 would take its memory."""
    folder = set_of(tmp_path / "set", "none")
    shard = folder / "train-00000.tar"
    labels = np.memmap(shard, "<u4", "r+", offset=layout.labels_offset(4), shape=(4,))
    labels[0] ^= np.uint32(1 << bit)
    labels.flush()
    data = open_set(folder)
    config = train_config(data=str(folder), output=tmp_path, order="balanced")
    with pytest.raises(CorruptShard, match=r"labels in the shards of train .* run `kkanji verify`"):
        training_order(config, data, data.split("train"))
