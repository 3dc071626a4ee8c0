"""Who ends with whom: ranks with each other, a training with its launcher, but not with the shell that began it.

What was finished is saved, and every rank says why. Every wait has an end: a hang is a failure.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, TimeoutExpired

import psutil
import pytest

from kkanji.config import read_options
from shards import SampleOrder, ShardSet
from shards.json_reading import read_json
from tests.launch.commands import (
    ROOT,
    begin,
    begin_ranks,
    environment,
    has_ended,
    lines,
    losses,
    start,
    start_nodes,
    start_ranks,
    train_command,
)
from tests.warm_python import WarmPython


@contextmanager
def two_ranks(tiny_set: Path, run: Path, *options: str) -> Iterator[list[WarmPython]]:
    """The ranks of a run that has done two steps."""
    with ExitStack() as held:
        ranks = begin_ranks(*train_command(tiny_set, run, "--epochs", "50", *options))
        for rank in ranks:
            held.enter_context(rank)
        next(line for line in ranks[0].stdout if line.startswith("step 2 "))
        yield ranks


def test_two_ranks_stop_together_when_one_is_sent_a_signal(tiny_set: Path, tmp_path: Path) -> None:
    """torchrun would send SIGTERM to all; here only one rank gets it, and both leave after the same step."""
    run = tmp_path / "run"
    with two_ranks(tiny_set, run) as ranks:
        ranks[1].terminate()
        rest, _ = ranks[0].communicate(120)
    assert [rank.returncode for rank in ranks] == [143, 143]
    assert f"checkpoints/step-{lines(run)[-1]['step']:09d}" in rest


def test_a_killed_rank_takes_the_others_along(tiny_set: Path, tmp_path: Path) -> None:
    """Without a launcher that would end them."""
    run = tmp_path / "run"
    with two_ranks(tiny_set, run, "--save-every", "1") as ranks:
        ranks[1].kill()
        _, told = ranks[0].communicate(120)
    assert ranks[0].returncode == 2 and "another rank ended or no longer answers" in told and "Traceback" not in told
    assert (run / "checkpoints" / "last").exists()


def test_a_rank_that_stalls_ends_the_others_with_their_stacks(tiny_set: Path, tmp_path: Path) -> None:
    """The stopped rank cannot end itself; the other one does, and then the launcher kills both."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--shutdown_timeout", "3")
    options = ("--epochs", "50", "--stall-seconds", "5")
    command = (*launcher, *train_command(tiny_set, tmp_path / "run", *options))
    with begin(*command, ACCELERATE_USE_CPU="true") as process:
        next(line for line in process.stdout if line.startswith("step 2 "))
        children = psutil.Process(process.pid).children()
        ranks = [each for each in children if any("launch/train.py" in part for part in each.cmdline())]
        assert len(ranks) == 2
        ranks[1].suspend()
        _, errors = process.communicate(240)
    assert process.returncode != 0
    assert "nothing has moved for 5 s (--stall-seconds 5) in step " in errors and "error: rank 0 (" in errors
    assert "kkanji/training/trainer.py" in errors
    assert all(has_ended(rank, 0) for rank in ranks)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_gradient_that_is_not_finite_stops_all_ranks_and_nothing_of_it_is_saved(
    tiny_set: Path, tmp_path: Path, ranks: int
) -> None:
    """The last rank's fourth micro-batch is NaN. Nobody hangs, and the checkpoint of step 3 is what is left."""
    run = tmp_path / "run"
    script, *options = train_command(tiny_set, run, "--save-every", "1")
    results = start_ranks(str(ROOT / "tests/faults/poisoned.py"), "4", *options, ranks=ranks)
    assert [result.returncode for result in results] == [2] * ranks
    bad = json.loads((run / "not-finite.json").read_text())
    assert bad["step"] == 4 and bad["split"] == "train"
    config = read_options(read_json(run / "config.json")["config"])
    size, seed = config["batch_size"], config["seed"]
    order = SampleOrder(samples=ShardSet(tiny_set).manifest.splits["train"].samples, seed=seed)
    assert bad["samples"] == order.at(3 * size, 4 * size).tolist()
    first = ", ".join(map(str, bad["samples"][:3]))
    found = f"step 4: the gradient is not finite, for {size} samples of split train, {first} ... (all: {run}/not-finite"
    assert all(part in result.stderr for result in results for part in (found, "; nothing after step 3 was saved;"))
    assert (run / "checkpoints" / "last").resolve().name == "step-000000003"
    assert script.endswith("train.py")


def test_a_training_ends_with_its_accelerate_launcher(tiny_set: Path, tmp_path: Path) -> None:
    """Which, with one process, passes no signal on. The training saves first."""
    run = tmp_path / "run"
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/configs/cpu.yaml"))
    command = [sys.executable, *launcher, *train_command(tiny_set, run, "--epochs", "50")]
    with subprocess.Popen(command, stdout=PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step 2 "))
        (training,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        assert has_ended(training, 60)
    assert lines(run)[-1]["step"] < 50 * 7
    assert (run / "checkpoints" / "last").exists()


def test_a_training_outlives_the_shell_that_left_it_in_the_background(tiny_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, *train_command(tiny_set, run, "--epochs", "1")]
    shell = subprocess.run(
        ["sh", "-c", 'nohup "$@" > "$0" 2>&1 & echo $!', str(tmp_path / "log"), *command],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    training = psutil.Process(int(shell.stdout))
    assert has_ended(training, 120)
    assert lines(run, "evaluation"), (tmp_path / "log").read_text()


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


def test_a_rank_that_cannot_begin_ends_all_with_one_cause(tiny_set: Path, tmp_path: Path) -> None:
    """After the ranks agreed and before the first step, with nothing between them that they exchange by themselves."""
    command = failing("begin", 1, tiny_set, tmp_path / "run")
    results = start_nodes(tmp_path, command, command)
    told = f"error: rank 1 ({socket.gethostname()}): [Errno 12] Cannot allocate memory: 'buffers'"
    assert [result.returncode for result in results] == [2, 2]
    assert all(told in result.stderr and "Traceback" not in result.stderr for result in results), results[0].stderr


def test_after_a_rank_is_lost_in_an_evaluation_the_first_one_saves_alone(tiny_set: Path, tmp_path: Path) -> None:
    """The steps before it were finished, and no checkpoint had them yet."""
    run = tmp_path / "run"
    command = failing("evaluation", 1, tiny_set, run)
    results = start_nodes(tmp_path, command, command)
    assert results[0].returncode == 2 and results[1].returncode != 0
    assert "another rank ended or no longer answers: Connection closed by peer [" in results[0].stderr
    assert "pair.cc" not in results[0].stderr and "Traceback" not in results[0].stderr
    assert "; the run is saved at step 7; the same command with --resume goes on" in results[0].stderr
    assert checkpoints(run) == ["step-000000007"]


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
    assert "goes on with 2 ranks, 1 before: the same global batches, cut into at most 8 images, 16" in results[0].stdout
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
    """Python's own handlers do not run while torch waits: here for a first rank that is there and says nothing."""
    command = failing("unmet", 200, tiny_set, tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as first:
        first.settimeout(120)
        with begin(*command, folder=None, **TWO, MASTER_PORT=str(first.getsockname()[1])) as process:
            connection, _ = first.accept()
            with connection, pytest.raises(TimeoutExpired):
                process.wait(2)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert process.returncode == 143


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
