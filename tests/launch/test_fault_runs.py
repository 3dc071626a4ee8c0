"""Rows of docs/FAULTS.md about runs: epochs that do not divide, another number of ranks, and few open files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import OutputFolder, ShardSet, write_manifest, write_shard
from shards.order.sequential import cut
from shards.store.store import open_store
from tests.launch.commands import environment, train_command

SAMPLES = 101
STEPS = 6
OPTIONS = ("--epochs", "1", "--batch-size", "20", "--micro-batch", "10", "--save-every", "2")
"""The last batch has one sample: of two ranks, one has none."""


@pytest.fixture(scope="module")
def uneven(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """101 images for training in shards of 34, 33 and 34, and none for validation."""
    data, output = ShardSet(tiny_set), tmp_path_factory.mktemp("uneven") / "set"
    reader, classes = data.split("train"), data.manifest.classes
    parts = [reader.gather(np.arange(*cut(0, SAMPLES, number, 3))) for number in range(3)]
    counts = tuple(np.bincount(np.concatenate([part.labels for part in parts]), minlength=classes).tolist())
    with OutputFolder(output) as folder:
        shards = tuple(write_shard(folder / f"train-{number}.tar", [part]) for number, part in enumerate(parts))
        split = replace(
            data.manifest.splits["train"], shards=shards, samples_per_class=counts, originals_per_class=counts
        )
        write_manifest(folder, replace(data.manifest, splits={"train": split}), data.read("index.json").decode())
    return output


def run(data: Path, output: Path, *, ranks: int = 1, stop_after: int = 0, resume: bool = False) -> int:
    """Train, or kill it after a step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = train_command(data, output, *OPTIONS, *(["--resume"] if resume else []))
    whole = [sys.executable, *(launcher if ranks > 1 else []), *command]
    with subprocess.Popen(
        whole, stdout=subprocess.PIPE, text=True, env=environment(ACCELERATE_USE_CPU="true")
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if stop_after and line.startswith(f"step {stop_after} "):
                process.kill()
    return process.returncode


def steps(output: Path) -> list[dict[str, Any]]:
    """The log's steps, the later of two with one number."""
    entries = (json.loads(line) for line in (output / "log.jsonl").read_text().splitlines())
    return list({entry["step"]: entry for entry in entries if entry["event"] == "step"}.values())


def test_101_samples_on_one_rank_then_two_then_one(uneven: Path, tmp_path: Path) -> None:
    """Killed twice; the same global batches as undisturbed, so the same losses but for the order of sums."""
    assert run(uneven, tmp_path / "one") == 0
    assert run(uneven, tmp_path / "many", stop_after=3) < 0
    assert run(uneven, tmp_path / "many", ranks=2, resume=True, stop_after=5) < 0
    assert run(uneven, tmp_path / "many", resume=True) == 0
    assert run(uneven, tmp_path / "two", ranks=2) == 0
    expected = steps(tmp_path / "one")
    assert [entry["samples"] for entry in expected] == [20, 40, 60, 80, 100, SAMPLES]
    for other in ("many", "two"):
        found = steps(tmp_path / other)
        assert [entry["samples"] for entry in found] == [entry["samples"] for entry in expected]
        assert [entry["loss"] for entry in found] == pytest.approx([entry["loss"] for entry in expected], rel=2e-3)


def test_a_run_from_a_bucket_with_64_open_files(uneven: Path, bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    for path in uneven.iterdir():
        store.upload(path.name, path)
    command = ["prlimit", "--nofile=64:64", sys.executable, *train_command(bucket, tmp_path / "run", *OPTIONS)]
    variables = environment(KKANJI_CACHE=str(tmp_path / "cache"))
    result = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert [entry["samples"] for entry in steps(tmp_path / "run")][-1] == SAMPLES
