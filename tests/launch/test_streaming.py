"""Training straight from a bucket: the same run as from the disk, bit for bit, whatever happens on the way."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from shards.store.store import open_store
from tests.faults.servers.proxy import FaultProxy
from tests.faults.servers.seaweed import SeaweedFS
from tests.launch.commands import begin, start, start_ranks, train_command
from tests.making import cut_up

STEPS = 14
IN_A_SHARD = 9
OPTIONS = ("--order", "windowed", "--window", "2", "--micro-batch", "4")
CACHE = ("--cache-size", "0.00065")  # room for ten shards of sixteen


@pytest.fixture(scope="module")
def many_shards(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set in many small shards."""
    return cut_up(tiny_set, tmp_path_factory.mktemp("many") / "shards", IN_A_SHARD)


@pytest.fixture(scope="module")
def from_disk(many_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "disk"
    result = start(*train_command(many_shards, run, *OPTIONS))
    assert result.returncode == 0, result.stderr
    return run


@pytest.fixture
def in_bucket(many_shards: Path, bucket: str) -> str:
    store = open_store(bucket)
    for path in sorted(many_shards.iterdir(), key=lambda path: path.name == "dataset.json"):
        store.upload(path.name, path)
    return bucket


def steps(run: Path) -> list[dict[str, Any]]:
    entries = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [entry for entry in entries if entry["event"] == "step"]


def weights(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints" / "last" / "model.safetensors").read_bytes()).hexdigest()


def assert_same_run(run: Path, other: Path) -> None:
    """Losses and weights equal bit for bit: the same samples in the same order, each with its right pixels."""
    assert [entry["loss"] for entry in steps(run)] == [entry["loss"] for entry in steps(other)]
    assert len(steps(run)) == STEPS
    assert weights(run) == weights(other)


def test_through_faults_of_network_and_server(
    in_bucket: str, from_disk: Path, seaweed: SeaweedFS, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with FaultProxy(seaweed.port) as proxy:
        for kind, times in (("503", 3), ("reset", 2), ("short", 2), ("lie", 1), ("flip", 1), ("stall", 1)):
            proxy.arm(kind, times=times, match="train-")
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "KKANJI_CACHE": str(tmp_path / "cache")}
        result = start(*train_command(in_bucket, run, *OPTIONS, *CACHE), **endpoint)
    assert result.returncode == 0, result.stderr
    assert_same_run(run, from_disk)
    last = steps(run)[-1]
    assert last["refetched"] == 1  # the flipped bit
    assert last["retries"] >= 9
    assert last["evicted"] > 0
    assert last["fetched_bytes"] > 0
    assert "shards ahead" in result.stdout


def test_the_server_is_killed_and_comes_back(
    in_bucket: str, from_disk: Path, seaweed: SeaweedFS, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = train_command(in_bucket, run, *OPTIONS, *CACHE)
    with begin(*command, KKANJI_CACHE=str(tmp_path / "cache")) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step 2 "))
        seaweed.kill()
        time.sleep(3)
        seaweed.start()  # takes about 5 s; the run waits for 60
        process.stdout.read()
    assert process.returncode == 0
    assert_same_run(run, from_disk)


def test_two_ranks_share_a_cache(in_bucket: str, from_disk: Path, tmp_path: Path) -> None:
    """The same global batches; gradients are summed in another order."""
    run = tmp_path / "run"
    command = train_command(in_bucket, run, *OPTIONS, "--micro-batch", "2", "--cache-size", "0.0009")
    results = start_ranks(*command, KKANJI_CACHE=str(tmp_path / "cache"))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert "2 x cpu" in results[0].stdout
    found, expected = ([entry["samples"] for entry in steps(each)] for each in (run, from_disk))
    assert found == expected
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar"))
    assert 0 < held <= 900_000
