"""One run folder: damaged checkpoints are passed over, a second training is refused, results are whole or absent."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from shards import FolderLock
from tests.launch.commands import ROOT, Result, begin, environment, losses, start, start_ranks, train_command

RESUME = "--resume"


@pytest.fixture(scope="module")
def finished(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints of steps 12 and 14, and what saved step 7."""
    run = tmp_path_factory.mktemp("runs") / "run"
    result = start(*train_command(tiny_set, run, "--save-every", "6"))
    assert result.returncode == 0, result.stderr
    assert not (run / ".lock").exists()
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def refused(result: Result) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def test_past_a_damaged_manifest_the_run_goes_on_the_same(run: Path, tiny_set: Path) -> None:
    before, newest = losses(run), checkpoints(run)[-1]
    weights = (newest / "model.safetensors").read_bytes()
    (newest / "manifest.json").write_text("{")
    result = start(*train_command(tiny_set, run, RESUME))
    assert result.returncode == 0, result.stderr
    (told,) = (line for line in result.stderr.splitlines() if "skipped" in line)
    assert f"{newest / 'manifest.json'}: not JSON" in told
    assert "steps 12..14" in result.stdout and losses(run) == before
    assert (newest / "model.safetensors").read_bytes() == weights


def test_without_a_good_checkpoint_a_run_is_not_begun_again(run: Path, tiny_set: Path) -> None:
    log = (run / "log.jsonl").read_bytes()
    for path in checkpoints(run):
        (path / "state.json").unlink()
    assert "no good checkpoint among" in refused(start(*train_command(tiny_set, run, RESUME)))
    shutil.rmtree(run / "checkpoints")
    found = "no checkpoint, though log.jsonl records that some were saved"
    assert found in refused(start(*train_command(tiny_set, run, RESUME)))
    assert (run / "log.jsonl").read_bytes() == log


def test_a_second_training_is_refused_at_once(tiny_set: Path, tmp_path: Path) -> None:
    """With --resume and without, by process and host; the first one goes on undisturbed."""
    run = tmp_path / "run"
    command = train_command(tiny_set, run, "--epochs", "50", "--save-every", "1")
    with begin(*command) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step 2 "))
        for options in ((), (RESUME,)):
            told = refused(start(*command, *options))
            assert f"{run}: process {process.pid} on {socket.gethostname()} is writing it; wait for it" in told
        process.terminate()
        rest, _ = process.communicate()
    assert process.returncode == 143 and "saved" in rest
    steps = [
        entry["step"]
        for entry in map(json.loads, (run / "log.jsonl").read_text().splitlines())
        if entry["event"] == "step"
    ]
    assert steps == list(range(1, len(steps) + 1))


def test_all_ranks_leave_if_the_folder_is_in_use(tiny_set: Path, tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run"):
        first, second = start_ranks(*train_command(tiny_set, tmp_path / "run"))
        assert f"process {os.getpid()} on {socket.gethostname()} is writing it" in refused(first)
        assert (second.returncode, second.stderr) == (2, "")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def on_full_disk(*command: str) -> Result:
    """A Python command line that may write files of 1 kB."""
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=240,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY)),
    )


def results(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_an_evaluation_that_the_disk_refuses_leaves_the_one_before(run: Path, tiny_set: Path) -> None:
    checkpoint = str(run / "checkpoints/last")
    command = (str(ROOT / "launch/evaluate.py"), "--checkpoint", checkpoint, "--data", str(tiny_set))
    assert start(*command).returncode == 0
    before = results(run)
    (run / "evaluation.json").write_text("of before")  # and so are the predictions that belong to it
    told = refused(on_full_disk(*command))
    assert f"{run}/evaluation.json: File too large; free some space" in told
    assert results(run) == before | {"evaluation.json": b"of before"}
