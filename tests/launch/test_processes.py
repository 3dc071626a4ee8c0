"""Who ends with whom: ranks with each other, a training with its launcher, but not with the shell that began it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from kkanji.config import read_options
from shards import SampleOrder, ShardSet
from shards.json_reading import read_json
from tests.launch.commands import ROOT, environment, lines, start, train_command


@contextmanager
def two_ranks(tiny_set: Path, run: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A run on two ranks that has done two steps: the launcher, and the ranks."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = [sys.executable, *launcher, *train_command(tiny_set, run, "--epochs", "50", *options)]
    variables = environment(ACCELERATE_USE_CPU="true")
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step 2 "))
        children = psutil.Process(process.pid).children()
        ranks = [each for each in children if any("launch/train.py" in part for part in each.cmdline())]
        assert len(ranks) == 2
        yield process, ranks
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)


def test_two_ranks_stop_together_when_one_is_sent_a_signal(tiny_set: Path, tmp_path: Path) -> None:
    """torchrun would send SIGTERM to all; here only one rank gets it, and both leave after the same step."""
    run = tmp_path / "run"
    with two_ranks(tiny_set, run) as (process, ranks):
        ranks[1].terminate()
        rest, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"checkpoints/step-{lines(run)[-1]['step']:09d}" in rest


def test_a_killed_rank_takes_the_others_along(tiny_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with two_ranks(tiny_set, run, "--save-every", "1") as (process, ranks):
        ranks[1].kill()
        process.communicate(timeout=120)
    assert process.returncode != 0
    assert (run / "checkpoints" / "last").exists()


def test_a_rank_that_stalls_ends_the_others_with_their_stacks(tiny_set: Path, tmp_path: Path) -> None:
    """The stopped rank cannot end itself; the other one does, and then the launcher kills both."""
    with two_ranks(tiny_set, tmp_path / "run", "--stall-seconds", "20") as (process, ranks):
        ranks[1].suspend()
        _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "nothing has moved for 20 s (--stall-seconds 20) in step " in errors and "error: rank 0 (" in errors
    assert "kkanji/training/trainer.py" in errors


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_gradient_that_is_not_finite_stops_all_ranks_before_the_step(
    tiny_set: Path, tmp_path: Path, ranks: int
) -> None:
    """The last rank's fourth micro-batch is NaN. Nobody hangs, and the checkpoint of step 3 is what is left."""
    run = tmp_path / "run"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks))
    script, *options = train_command(tiny_set, run, "--save-every", "1")
    command = (*launcher, str(ROOT / "tests/faults/poisoned.py"), "4", *options)
    result = start(*command, ACCELERATE_USE_CPU="true")
    assert result.returncode != 0
    bad = json.loads((run / "not-finite.json").read_text())
    assert bad["step"] == 4 and bad["split"] == "train"
    config = read_options(read_json(run / "config.json")["config"])
    size, seed = config["batch_size"], config["seed"]
    order = SampleOrder(samples=ShardSet(tiny_set).manifest.splits["train"].samples, seed=seed)
    assert bad["samples"] == order.at(3 * size, 4 * size).tolist()
    first = ", ".join(map(str, bad["samples"][:3]))
    found = f"step 4: the gradient is not finite, for {size} samples of split train, {first} ... (all: {run}/not-finite"
    assert found in result.stderr and "; the weights are those of step 3;" in result.stderr
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
        training.wait(timeout=60)
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
    deadline = time.monotonic() + 120
    while training.is_running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert lines(run, "evaluation"), (tmp_path / "log").read_text()
