"""A row of docs/FAULTS.md about runs: few open files."""

import resource
from pathlib import Path

from shards.store.store import open_store
from tests.launch.commands import DEADLINE_S, begin, lines, train_command


def test_a_run_from_a_bucket_with_64_open_files(tiny_set: Path, bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket)
    for path in sorted(tiny_set.iterdir(), key=lambda path: path.name == "dataset.json"):
        store.upload(path.name, path)
    options = ("--epochs", "1", "--batch-size", "20", "--micro-batch", "10", "--save-every", "2")
    command = train_command(bucket, tmp_path / "run", *options)
    with begin(*command, KKANJI_CACHE=str(tmp_path / "cache")) as process:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (64, 64))
        _, errors = process.communicate(DEADLINE_S)
    assert process.returncode == 0, errors
    assert [entry["samples"] for entry in lines(tmp_path / "run")] == [20, 40, 60, 80, 100, 108]
