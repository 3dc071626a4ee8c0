"""Ways to start the command lines as a user does, and to read what they logged."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.warm_python import WarmPython

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240
Result = subprocess.CompletedProcess[str]


def train_command(data: Path | str, run: Path, *options: str) -> list[str]:
    """A short training on the tiny set: 108 images, 14 steps of 16 images in 2 epochs."""
    fixed = ("--model", "kkanji_efficientnet_fused_s", "--epochs", "2", "--batch-size", "16", "--log-every", "1")
    return [str(ROOT / "launch" / "train.py"), "--data", str(data), "--output", str(run), *fixed, *options]


def environment(**more: str) -> dict[str, str]:
    """One torch thread: starting takes longer than computing here, and sums come out in one order."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def start(*command: str, **more: str) -> Result:
    """Run a Python command line to its end."""
    return start_in(None, *command, **more)


def start_in(folder: Path | None, *command: str, **more: str) -> Result:
    """Run a Python command line to its end, in this folder. Options of the interpreter need a new one."""
    if command[0].startswith("-") and command[0] != "-m":
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": DEADLINE_S, "check": False}
        return subprocess.run([sys.executable, *command], env=environment(**more), cwd=folder, **options)
    with begin(*command, folder=folder, **more) as process:
        stdout, stderr = process.communicate(DEADLINE_S)
    assert process.returncode is not None
    return Result(command, process.returncode, stdout, stderr)


def begin(*command: str, folder: Path | None = None, **more: str) -> WarmPython:
    """Start a Python command line, to be watched, signalled and ended."""
    return WarmPython(command, environment=environment(**more), folder=folder)


def has_ended(process: psutil.Process, within_s: float) -> bool:
    """Whether a process ends in time. It may stay as a zombie: one whose parent is gone is init's to wait for."""
    deadline = time.monotonic() + within_s
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return True


def lines(run: Path, event: str = "step") -> list[dict[str, Any]]:
    """The log's entries of a kind, the later of two with one step number."""
    entries = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return list({entry["step"]: entry for entry in entries if entry["event"] == event}.values())


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in lines(run)]


def begin_ranks(*command: str, ranks: int = 2, **more: str) -> list[WarmPython]:
    """A run's ranks on one machine, as torchrun starts them but without it: warm, and each with its own exit code."""
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "ACCELERATE_USE_CPU": "true"} | _meeting()
    places = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks))
    return [begin(*command, folder=None, **shared | more | place) for place in places]


def start_ranks(*command: str, ranks: int = 2, **more: str) -> list[Result]:
    """A run's ranks on one machine, to the end of all."""
    with ExitStack() as held, ThreadPoolExecutor() as pool:
        begun = [held.enter_context(rank) for rank in begin_ranks(*command, ranks=ranks, **more)]
        texts = list(pool.map(lambda rank: rank.communicate(DEADLINE_S), begun))
    codes = [rank.wait() for rank in begun]
    return [Result(command, code, stdout, stderr) for code, (stdout, stderr) in zip(codes, texts, strict=True)]


def start_nodes(caches: Path, *commands: list[str]) -> list[Result]:
    """One run of a rank a node, each with a command line and a cache of its own, to the end of all; on a CPU."""
    shared = {"WORLD_SIZE": str(len(commands)), "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"} | _meeting()
    with ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(start, *command, **shared, RANK=str(rank), KKANJI_CACHE=str(caches / f"cache{rank}"))
            for rank, command in enumerate(commands)
        ]
    return [each.result() for each in waiting]


def _meeting() -> dict[str, str]:
    """Where ranks meet: a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
