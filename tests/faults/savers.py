"""Saves small checkpoints in processes that are killed, and reports what each kill left.

    python -m tests.faults.savers killed-by-clock FOLDER KILLS  at random moments; each goes on from what the last left
    python -m tests.faults.savers killed-by-step FOLDER      one process for each step that touches a file
    python -m tests.faults.savers killed-by-write FOLDER     the same for each write and fsync: before, half way, after

Printed as JSON: for each kill the last step that the process had reported as saved, and what is found afterwards.
Processes are forks of this one, which makes a kill cost little more than a checkpoint.
"""

import io
import itertools
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from kkanji import checkpoint
from kkanji.classes import ClassMap
from shards import InputError
from tests.faults.injector import answer
from tests.faults.writers import Dying, fork, wait

CLASSES = ClassMap.of([0x4E00, 0x4E8C])
BEST_EVERY = 5
SAVED_BEFORE = 3  # checkpoints, where one process is killed in the next: it has one to remove


@cache
def trained() -> tuple[nn.Module, Optimizer]:
    """A model of 160 kB, and an optimizer that has made a step."""
    model = nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200), nn.Linear(200, 2))
    optimizer = Adam(model.parameters(), amsgrad=True)
    model(torch.ones(2, 200)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int) -> None:
    """As training does; every fifth is the best so far."""
    model, optimizer = trained()
    checkpoint.save(
        folder,
        step,
        model=model,
        optimizer=optimizer,
        state={"step": step},
        classes=CLASSES,
        best=step % BEST_EVERY == 0,
    )


def found(folder: Path) -> dict[str, Any]:
    """The newest checkpoint that verifies, how many were passed over, whether links name good ones, what is left."""
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        newest = checkpoint.newest(folder)
    links = [folder / name for name in ("last", "best") if (folder / name).is_symlink()]
    return {
        "found": number(newest),
        "passed_over": len(issued),
        "links": all(verifies(link) for link in links),
        "kept": len(list(folder.glob("step-*"))),
        "unfinished": any(folder.glob(".step-*")),
    }


def number(path: Path | None) -> int:
    """The step of a checkpoint, 0 for none."""
    return int(path.name.removeprefix("step-")) if path else 0


def verifies(path: Path) -> bool:
    """Whether it is a whole checkpoint."""
    try:
        checkpoint.check(path)
    except InputError:
        return False
    return True


def save_on(folder: Path, reports: int) -> None:
    """Save from the newest step on, without end, and report each step when it is saved."""
    for step in itertools.count(number(checkpoint.newest(folder)) + 1):
        save(folder, step)
        os.write(reports, step.to_bytes(8, "little"))


def killed_by_clock(folder: Path, kills: int) -> list[dict[str, Any]]:
    """After at least one checkpoint each, some way into the next ones."""
    trained()
    start = time.perf_counter()
    save(folder / "undisturbed", 1)
    usual_s = time.perf_counter() - start
    return [killed_once(folder / "run", 2 * usual_s) for _ in range(kills)]


def killed_once(folder: Path, longest_s: float) -> dict[str, Any]:
    """One process, killed so many seconds at most after its first report."""
    reading, writing = os.pipe()
    child = fork(partial(save_on, folder, writing))
    os.close(writing)
    reported = os.read(reading, 8)
    time.sleep(random.uniform(0, longest_s))
    os.kill(child, signal.SIGKILL)
    code = wait(child)
    with os.fdopen(reading, "rb") as rest:
        reported += rest.read()
    return {"code": code, "reported": int.from_bytes(reported[-8:], "little"), **found(folder)}


def killed_at_each(folder: Path, prepare: Callable[[int, Path], None]) -> list[dict[str, Any]]:
    """A process for each step, dying there while it saves one more checkpoint; and then one that goes on."""
    trained()
    left: list[dict[str, Any]] = []
    while not left or left[-1]["code"]:
        run = folder / f"{len(left):05d}"
        for step in range(1, SAVED_BEFORE + 1):
            save(run, step)
        code = wait(fork(partial(die_saving, run, partial(prepare, len(left), run))))
        after = {"code": code, "reported": SAVED_BEFORE, **found(run)}
        save(run, after["found"] + 1)
        left.append({**after, "next": found(run)})
    return left


def die_saving(run: Path, prepare: Callable[[], None]) -> None:
    prepare()
    save(run, SAVED_BEFORE + 1)


def at_step(step: int, folder: Path) -> None:
    """Die just before the step-th time that Python touches a file in the folder."""
    steps = itertools.count()

    def hook(_: str, arguments: tuple[object, ...]) -> None:
        names = [str(argument) for argument in arguments[:2] if isinstance(argument, str | os.PathLike)]
        if any(str(folder) in name for name in names) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def at_write(step: int, _: Path) -> None:
    """Die at the step-th of the steps that `Dying` counts."""
    dying = Dying(step)
    io.open, os.fsync = dying.open, dying.fsync  # type: ignore[assignment]


def main() -> None:
    """Run a command of the table above."""
    torch.set_num_threads(1)  # a fork has the thread that forked, and no other
    commands: dict[str, Callable[..., object]] = {
        "killed-by-clock": killed_by_clock,
        "killed-by-step": partial(killed_at_each, prepare=at_step),
        "killed-by-write": partial(killed_at_each, prepare=at_write),
    }
    answer(commands)


if __name__ == "__main__":
    main()
