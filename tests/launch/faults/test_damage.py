"""Trainings and evaluations of a set with a flipped bit: they end on all ranks, and nothing of them counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards import OutputFolder, ShardSet, Split, read_manifest, write_manifest, write_shard
from shards.format import layout
from shards.order.sequential import cut
from tests.faults.flips import flipped
from tests.launch.commands import ROOT, start, start_ranks, train_command

BLOCKS = 5
OPTIONS = ("--epochs", "1", "--augment", "0")


@pytest.fixture(scope="module")
def data(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set, its splits in two shards of five blocks each."""
    whole, output = ShardSet(tiny_set), tmp_path_factory.mktemp("damage") / "set"
    splits: dict[str, Split] = {}
    with OutputFolder(output) as folder:
        for name, split in whole.manifest.splits.items():
            reader = whole.split(name)
            parts = [reader.gather(np.arange(*cut(0, reader.samples, n, 2 * BLOCKS))) for n in range(2 * BLOCKS)]
            halves = enumerate((parts[:BLOCKS], parts[BLOCKS:]))
            shards = tuple(write_shard(folder / f"{name}-0000{number}.tar", half) for number, half in halves)
            splits[name] = replace(split, shards=shards)
        write_manifest(folder, replace(whole.manifest, splits=splits), whole.read("index.json").decode())
    return output


@contextmanager
def damaged(data: Path, name: str) -> Iterator[str]:
    """A flipped bit in a pixel of a block in the middle; gives what is to be told of it."""
    split, number = name.removesuffix(".tar").split("-")
    block = read_manifest(data).splits[split].shards[int(number)].blocks[2]
    with flipped(data / name, block.offset + layout.PIXELS_OFFSET + 1000):
        yield f"{data / name}: block 000002 at byte {block.offset}: crc32 "


@pytest.mark.parametrize(("ranks", "name"), [(1, "train-00000.tar"), (1, "val-00001.tar"), (2, "train-00001.tar")])
def test_training_ends_on_all_ranks_before_the_first_epoch_does(
    data: Path, tmp_path: Path, ranks: int, name: str
) -> None:
    run = tmp_path / "run"
    with damaged(data, name) as told:
        results = start_ranks(*train_command(data, run, *OPTIONS), ranks=ranks)
    assert [result.returncode for result in results] == [2] * ranks, results[0].stderr
    assert [result.stderr.count(told) for result in results] == [1] * ranks
    assert not (run / "checkpoints").exists()


def test_a_trusting_run_does_not_notice_damage_but_its_evaluation_does(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with damaged(data, "val-00000.tar") as told:
        assert start(*train_command(data, run, *OPTIONS, "--trust")).returncode == 0
        checkpoint = str(run / "checkpoints" / "last")
        result = start(str(ROOT / "launch" / "evaluate.py"), "--checkpoint", checkpoint, "--data", str(data))
    assert result.returncode == 2 and told in result.stderr
    assert not (run / "evaluation.json").exists() and not (run / "predictions.npz").exists()
