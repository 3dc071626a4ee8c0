"""A row of docs/FAULTS.md about runs: few open files."""

import subprocess
import sys
from pathlib import Path

from shards.store.store import open_store
from tests.launch.commands import environment, lines, train_command


def test_a_run_from_a_bucket_with_64_open_files(tiny_set: Path, bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    for path in sorted(tiny_set.iterdir(), key=lambda path: path.name == "dataset.json"):
        store.upload(path.name, path)
    options = ("--epochs", "1", "--batch-size", "20", "--micro-batch", "10", "--save-every", "2")
    command = ["prlimit", "--nofile=64:64", sys.executable, *train_command(bucket, tmp_path / "run", *options)]
    variables = environment(KKANJI_CACHE=str(tmp_path / "cache"))
    result = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert [entry["samples"] for entry in lines(tmp_path / "run")] == [20, 40, 60, 80, 100, 108]
