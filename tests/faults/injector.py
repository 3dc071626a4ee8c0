"""How tests run a fault injector, a module of this folder, as a process of its own, and how that answers."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.seeds import seed

ROOT = Path(__file__).parents[2]


def run_injector(
    name: str, command: str, folder: Path, *counts: int, wrap: Sequence[str] = (), environment: Mapping[str, str] = {}
) -> Any:
    """Run a command of an injector and return its answer; wrap: what starts it, such as `on_small_disk`."""
    arguments = [*wrap, sys.executable, "-m", f"tests.faults.{name}", command, str(folder), *map(str, counts)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, env=variables)
    sys.stderr.write(result.stderr)  # pytest shows it with a failing test: the seed, and what went wrong in there
    result.check_returncode()
    return json.loads(result.stdout)


def answer(commands: Mapping[str, Callable[..., object]]) -> None:
    """An injector's main: run the command that its arguments name, print what it returns. Seeds `random`."""
    command, folder, *counts = sys.argv[1:]
    random.seed(seed())
    sys.stdout.write(json.dumps(commands[command](Path(folder), *map(int, counts))))


def on_small_disk(folder: Path) -> tuple[str, ...]:
    """A wrap under which the folder is a file system of 2 MiB; see `needs_small_disk`."""
    return "unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=2m tmpfs {folder} && exec "$@"', "sh"


def _namespace_permitted() -> bool:
    """Whether this user may mount a file system of its own."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_small_disk = pytest.mark.skipif(
    not _namespace_permitted(), reason="unshare -rm is not permitted here: no small file system to fill"
)
