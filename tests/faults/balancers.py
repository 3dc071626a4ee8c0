"""Balances the originals of a folder in processes that something happens to; a test then looks at what they left.

    python -m tests.faults.balancers killed FOLDER KILLS     each killed at a random moment, then run again to the end
    python -m tests.faults.balancers driven FOLDER KILLS     one output, killed again and again, then run to the end
    python -m tests.faults.balancers together FOLDER ROUNDS  the two parts of each output at once, and the whole as well

FOLDER/originals are balanced to FOLDER/00000, FOLDER/00001 ... Exit codes are printed as JSON, negative for a signal.
Processes are forks of this one, which makes a kill cost milliseconds.
"""

import contextlib
import io
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.injector import answer
from tests.faults.writers import fork, wait
from tools.build.offline_augment import find_recipe, fingerprint
from tools.commands.balance import balance

PER_CLASS = 700


def run(folder: Path, output: str, part: str | None = None) -> int:
    """Start to balance; the process's id."""
    return fork(partial(quietly, folder, output, part))


def quietly(folder: Path, output: str, part: str | None) -> None:
    """stdout is for the codes."""
    with contextlib.redirect_stdout(io.StringIO()):
        balance(
            folder / "originals",
            per_class=PER_CLASS,
            output=folder / output,
            part=part,
            block_size=125,
            shard_size=125,
        )


def usual_s(folder: Path) -> float:
    """How long it takes undisturbed."""
    start = time.perf_counter()
    wait(run(folder, "usual"))
    return time.perf_counter() - start


def kill(child: int, after_s: float) -> int:
    """A process that was ready before it is no kill."""
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    return wait(child)


def killed(folder: Path, kills: int) -> list[list[int]]:
    """Pairs of codes: of the run that was to be killed, and of the run after it."""
    longest_s = usual_s(folder)
    codes: list[list[int]] = []
    while sum(first < 0 for first, _ in codes) < kills:
        output = f"{len(codes):05d}"
        first = kill(run(folder, output), random.uniform(0, longest_s))
        codes.append([first, wait(run(folder, output))])
    return codes


def driven(folder: Path, kills: int) -> list[int]:
    """Codes of all runs; each has a third of the usual time."""
    longest_s = usual_s(folder) / 3
    codes = [kill(run(folder, "00000"), random.uniform(0, longest_s)) for _ in range(kills)]
    return [*codes, wait(run(folder, "00000"))]


def together(folder: Path, rounds: int) -> list[list[int]]:
    """Codes of three processes for each output."""
    starts = (partial(run, folder, f"{number:05d}") for number in range(rounds))
    return [[wait(child) for child in [start("0/2"), start("1/2"), start(None)]] for start in starts]


if __name__ == "__main__":
    fingerprint(find_recipe("policy", 1.0))  # compiled once, before forking
    answer({"killed": killed, "driven": driven, "together": together})
