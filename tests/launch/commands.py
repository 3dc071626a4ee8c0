"""Ways to start the command lines as a user does, and to read what they logged."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
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
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment(**more), timeout=240, check=False
    )


def lines(run: Path, event: str = "step") -> list[dict[str, Any]]:
    """The log's entries of a kind, the later of two with one step number."""
    entries = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return list({entry["step"]: entry for entry in entries if entry["event"] == event}.values())


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in lines(run)]
