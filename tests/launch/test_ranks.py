"""One run on 1, 2 and 4 processes: the same global batches, uneven data, and a device with less memory than the others.

Every wait has an end (`start`): a hang is a failure.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import OutputFolder, ShardSet, Split, write_manifest, write_shard
from tests.launch.commands import ROOT, Result, start, train_command

RANKS = (1, 2, 4)
TRAINED, VALIDATED = 97, 3
"""In batches of 24 the last one has one image; and there are fewer to validate on than ranks."""
OPTIONS = ("--epochs", "1", "--batch-size", "24", "--augment", "0")  # its code takes long to compile
MICRO_BATCH = 6  # that 24 images are cut into on 1, 2 and 4 ranks alike


@pytest.fixture(scope="module")
def uneven(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some images of the tiny set's splits."""
    data, output = ShardSet(tiny_set), tmp_path_factory.mktemp("ranks") / "set"
    splits: dict[str, Split] = {}
    with OutputFolder(output) as folder:
        for name, count in (("train", TRAINED), ("val", VALIDATED)):
            part = data.split(name).gather(np.arange(count))
            shard = write_shard(folder / f"{name}.tar", [part])
            counts = tuple(np.bincount(part.labels, minlength=data.manifest.classes).tolist())
            whole = data.manifest.splits[name]
            splits[name] = replace(whole, shards=(shard,), samples_per_class=counts, originals_per_class=counts)
        write_manifest(folder, replace(data.manifest, splits=splits), data.read("index.json").decode())
    return output


def launched(ranks: int, command: list[str]) -> Result:
    """Under torchrun, as `accelerate launch` starts several processes; one by itself."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)) if ranks > 1 else ()
    result = start(*launcher, *command, ACCELERATE_USE_CPU="true")
    assert result.returncode == 0, result.stderr
    return result


def entries(run: Path, event: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [entry for entry in found if entry["event"] == event]


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in entries(run, "step")]


@pytest.fixture(scope="module")
def runs(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of each number of ranks."""
    folder = tmp_path_factory.mktemp("runs")
    for ranks in RANKS:
        launched(ranks, train_command(uneven, folder / str(ranks), *OPTIONS, "--micro-batch", str(MICRO_BATCH)))
    return {ranks: folder / str(ranks) for ranks in RANKS}


def test_any_number_of_ranks_trains_on_the_same_global_batches(runs: dict[int, Path]) -> None:
    """Equal losses but for the order of the gradients' sums, the last batch of one image included."""
    for run in runs.values():
        assert [entry["samples"] for entry in entries(run, "step")] == [24, 48, 72, 96, TRAINED]
        assert losses(run) == pytest.approx(losses(runs[1]), rel=1e-3)


def test_each_image_is_validated_on_once_though_a_rank_has_none(runs: dict[int, Path]) -> None:
    assert [[entry["images"] for entry in entries(run, "evaluation")] for run in runs.values()] == [[VALIDATED]] * 3


def test_one_rank_with_little_memory_halves_the_micro_batch_of_all(
    runs: dict[int, Path], uneven: Path, tmp_path: Path
) -> None:
    """From 12 images to 6, before anything is computed that counts: the losses of a run that was told to take 6."""
    run = tmp_path / "run"
    script, *options = train_command(uneven, run, *OPTIONS)
    result = launched(2, [str(ROOT / "tests/faults/cramped.py"), "7", *options])
    assert script.endswith("train.py")
    assert result.stdout.count("2 x cpu in micro-batches of 6") == 1
    assert json.loads((run / "config.json").read_text())["config"]["runtime"]["micro_batch"] == MICRO_BATCH
    assert losses(run) == losses(runs[2])
