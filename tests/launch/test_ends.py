"""Runs that end before their last step, or before their first: what was finished is saved, and every rank says why.

Every wait has an end: a hang is a failure.
"""

import json
import shutil
import signal
import socket
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from tests.launch.commands import ROOT, begin, lines, losses, start, start_nodes, train_command

OPTIONS = ("--epochs", "1", "--augment", "0", "--start-size", "16", "--full-size-at", "1")
TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}


def failing(kind: str, number: int, data: Path, run: Path, *options: str) -> list[str]:
    _, *rest = train_command(data, run, *OPTIONS, *options)
    return [str(ROOT / "tests/faults/failing.py"), kind, str(number), *rest]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_data_that_one_rank_cannot_read_ends_all_with_one_cause(tiny_set: Path, tmp_path: Path) -> None:
    """In the second of two micro-batches of the third step: the first one's batch statistics are undone."""
    run = tmp_path / "run"
    command = failing("data", 6, tiny_set, run, "--micro-batch", "4")
    results = start_nodes(tmp_path, command, command)
    told = f"error: rank 1 ({socket.gethostname()}): the bucket does not answer; the run is saved at step 2; the same"
    assert [result.returncode for result in results] == [2, 2]
    assert all(told in result.stderr and "Traceback" not in result.stderr for result in results), results[0].stderr
    assert checkpoints(run) == ["step-000000002"]


def test_after_a_rank_is_lost_the_first_one_saves_alone(tiny_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = failing("killed", 3, tiny_set, run)
    results = start_nodes(tmp_path, command, command)
    assert results[0].returncode == 2 and results[1].returncode != 0
    assert "rank 0 (" in results[0].stderr and "another rank ended or no longer answers" in results[0].stderr
    assert "; the run is saved at step 2; the same command with --resume goes on from there" in results[0].stderr
    assert "Traceback" not in results[0].stderr and checkpoints(run) == ["step-000000002"]


def test_a_run_goes_on_with_more_ranks_and_says_what_changes(tiny_set: Path, tmp_path: Path) -> None:
    """By the same command. Its micro-batch is as large as a batch, so it cannot stay."""
    one, two = tmp_path / "one", tmp_path / "two"
    command = train_command(tiny_set, one, *OPTIONS, "--save-every", "4", "--micro-batch", "16")
    assert start(*command).returncode == 0
    shutil.copytree(one, two, symlinks=True)
    shutil.rmtree(two / "checkpoints" / "step-000000007")
    again = train_command(tiny_set, two, *OPTIONS, "--save-every", "4", "--micro-batch", "16", "--resume")
    results = start_nodes(tmp_path, again, again)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert (
        "goes on with 2 rank(s), 1 before: the same global batches, cut into at most 8 images, 16" in results[0].stdout
    )
    assert "steps 4..7" in results[0].stdout and "in micro-batches of 8" in results[0].stdout
    assert losses(two)[:4] == losses(one)[:4] and len(losses(two)) == 7
    state = json.loads((two / "checkpoints" / "last" / "state.json").read_text())
    assert (state["processes"], state["config"]["runtime"]["micro_batch"]) == (2, 16)


def test_a_closed_output_ends_a_run_after_saving(tiny_set: Path, tmp_path: Path) -> None:
    """As `| head` does."""
    run = tmp_path / "run"
    with begin(*train_command(tiny_set, run, *OPTIONS, "--epochs", "50")) as process:
        next(line for line in process.stdout if line.startswith("step 2 "))
        process.stdout.close()
        process.wait(120)
    assert process.returncode == 141
    assert checkpoints(run)[-1] == f"step-{lines(run)[-1]['step']:09d}"


def test_one_small_image_is_refused_with_a_size_that_works(tiny_set: Path, tmp_path: Path) -> None:
    """Batch normalisation needs two values a channel, which an image of 8 pixels does not leave it."""
    fixed = ("--epochs", "1", "--batch-size", "108", "--micro-batch", "1", "--full-size-at", "1", "--augment", "0")
    refused = start(*train_command(tiny_set, tmp_path / "run", *fixed, "--start-size", "8"))
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "step 1 has a micro-batch of one image of 8 pixels" in refused.stderr
    assert "give --start-size 24, or" in refused.stderr and not (tmp_path / "run").exists()
    result = start(*train_command(tiny_set, tmp_path / "run", *fixed, "--start-size", "24"))
    assert result.returncode == 0, result.stderr


def test_ranks_that_do_not_meet_end_with_what_to_look_at(tiny_set: Path, tmp_path: Path) -> None:
    """The other one never comes."""
    command = failing("unmet", 3, tiny_set, tmp_path / "deep" / "run")
    result = start(*command, **TWO, MASTER_PORT=free_port())
    assert result.returncode == 2, result.stderr
    told = next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    for part in (f"rank 1 ({socket.gethostname()}): the 2 ranks did not meet at 127.0.0.1:", "3 s have passed"):
        assert part in told
    assert "interface is " in told and "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME" in told and len(told) < 500
    assert not (tmp_path / "deep").exists()


def test_a_signal_ends_a_rank_that_waits_for_the_others(tiny_set: Path, tmp_path: Path) -> None:
    """Python's own handlers do not run while torch waits."""
    command = failing("unmet", 200, tiny_set, tmp_path / "run")
    with begin(*command, **TWO, MASTER_PORT=free_port()) as process:
        with pytest.raises(TimeoutExpired):
            process.wait(15)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert process.returncode == 143


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
