"""Two nodes that begin one run with different machines, options or files: settled for both, or the end of both.

Each rank is a process with a command line and paths of its own, as on a node of its own. Every wait has an end
(`start`): a hang is a failure.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.launch.commands import ROOT, Result, losses, start, start_nodes, train_command
from tests.making import cut_up

OPTIONS = ("--epochs", "1", "--augment", "0", "--micro-batch", "4")
LITTLE, PLENTY = ("--cache-size", "0.0007"), ("--cache-size", "0.1")
"""Room for two shards and a few small batches at a time, and for the whole set."""
SMALL = ("--batch-size", "4", "--micro-batch", "2")


def assert_all_refused(results: list[Result], *expected: str) -> None:
    """By one message, the same on all."""
    assert [result.returncode for result in results] == [2, 2], results[1].stderr
    messages = [[line for line in result.stderr.splitlines() if line.startswith("error: ")] for result in results]
    assert messages[0] == messages[1] and len(messages[0]) == 1
    for part in expected:
        assert part in messages[0][0]
    assert not any("Traceback" in result.stderr for result in results)


def test_torchrun_without_a_gpu_is_one_run(tiny_set: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = train_command(tiny_set, tmp_path / "run", *OPTIONS)
    result = start(*launcher, *command, ACCELERATE_USE_CPU="false", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 x cpu in micro-batches of 4") == 1


@pytest.fixture(scope="module")
def compressed(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set in eleven shards, which training unpacks into a cache."""
    return cut_up(tiny_set, tmp_path_factory.mktemp("compressed") / "set", in_a_shard=10, compression="zstd")


def test_order_and_window_follow_the_smallest_cache(compressed: Path, tmp_path: Path) -> None:
    """Both ranks train on the global batches of one process that has as little room."""
    alone, run = tmp_path / "alone", tmp_path / "run"
    assert start_nodes(tmp_path, train_command(compressed, alone, *OPTIONS, *SMALL, *LITTLE))[0].returncode == 0
    commands = [train_command(compressed, run, *OPTIONS, *SMALL, *room) for room in (PLENTY, LITTLE)]
    for result in start_nodes(tmp_path, *commands):
        assert result.returncode == 0, result.stderr
    configs = [json.loads((each / "config.json").read_text())["config"]["sampling"] for each in (alone, run)]
    assert [(config["order"], config["window"]) for config in configs] == [("windowed", 2)] * 2
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)


def test_a_window_that_one_cache_has_no_room_for(compressed: Path, tmp_path: Path) -> None:
    wanted = ("--order", "windowed", "--window", "5")
    commands = [train_command(compressed, tmp_path / "run", *OPTIONS, *wanted, *room) for room in (PLENTY, LITTLE)]
    assert_all_refused(start_nodes(tmp_path, *commands), "rank 1 (", "a window of 5 shards", "of cache, there are 0.00")
    assert not (tmp_path / "run").exists()


def test_other_options_and_another_set(tiny_set: Path, compressed: Path, tmp_path: Path) -> None:
    """Each difference is told with both values; where a node keeps things may differ."""
    commands = [
        train_command(data, tmp_path / str(lr), *OPTIONS, "--lr", str(lr))
        for data, lr in ((tiny_set, 0.5), (compressed, 0.25))
    ]
    results = start_nodes(tmp_path, *commands)
    assert_all_refused(results, "--lr is 0.25 on rank 1 (", "), 0.5 on rank 0 (", "; set is ")
    assert "--output" not in results[0].stderr.partition("; start every rank")[0]
    assert not (tmp_path / "0.5").exists()


@pytest.fixture(scope="module")
def finished(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert start(*train_command(tiny_set, run, *OPTIONS)).returncode == 0
    return run


def resumed(tiny_set: Path, tmp_path: Path, *runs: Path) -> list[Result]:
    return start_nodes(tmp_path, *(train_command(tiny_set, run, *OPTIONS, "--resume") for run in runs))


def test_a_checkpoint_that_one_rank_does_not_see(tiny_set: Path, finished: Path, tmp_path: Path) -> None:
    """Whichever rank it is: the others would go on from it, or it would be begun anew beside them."""
    for runs in ((finished, tmp_path / "own"), (tmp_path / "own", finished)):
        seen = ("step-000000007", "none") if runs[0] == finished else ("none", "step-000000007")
        expected = f"checkpoint is {seen[1]} on rank 1 (", f"), {seen[0]} on rank 0 (", "--output that every node sees"
        assert_all_refused(resumed(tiny_set, tmp_path, *runs), *expected)
    assert not (tmp_path / "own").exists()


def test_a_checkpoint_with_another_content(tiny_set: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other, symlinks=True)
    replace_state(other / "checkpoints" / "last")
    assert_all_refused(resumed(tiny_set, tmp_path, finished, other), "sha256 of its manifest is ")


def replace_state(path: Path) -> None:
    """With one that verifies."""
    state, manifest = (json.loads((path / name).read_text()) for name in ("state.json", "manifest.json"))
    content = json.dumps(state | {"progress": state["progress"] | {"seconds": 0.0}})
    manifest["state.json"] = hashlib.sha256(content.encode()).hexdigest()
    (path / "state.json").write_text(content)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_weights_that_drift_apart_are_not_saved(tiny_set: Path, tmp_path: Path) -> None:
    """From the fifth step on; the checkpoint of the fourth is what is left."""
    run = tmp_path / "run"
    _, *options = train_command(tiny_set, run, *OPTIONS, "--save-every", "4")
    command = [str(ROOT / "tests/faults/drifting.py"), "5", *options]
    expected = ("checksum of weights is ", " on rank 1 (", "--resume goes on from the last checkpoint")
    assert_all_refused(start_nodes(tmp_path, command, command), *expected)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-000000004"]
