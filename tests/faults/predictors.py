"""Saves predictions over earlier ones in processes that are killed.

    python -m tests.faults.predictors killed-by-write FOLDER  one for each write and fsync: before, half way, after

Printed as JSON: for each its exit code, and whose probability is found afterwards.
"""

import io
import os
from pathlib import Path

import torch

from kkanji.evaluation.predictions import load_predictions
from tests.faults.injector import answer
from tests.faults.writers import Dying, fork, wait
from tests.kkanji.evaluation.synthetic import confident

OLD, NEW = 0.25, 0.75


def save(path: Path, probability: float) -> None:
    """So many that they are written in several pieces."""
    predictions = confident([probability] * 2_000, [True] * 2_000)
    predictions.probability[:, 1:] = torch.rand(2_000, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    predictions.save(path)


def die_saving(path: Path, step: int) -> None:
    """At the step-th of the steps that `Dying` counts."""
    dying = Dying(step)
    io.open, os.fsync = dying.open, dying.fsync  # type: ignore[assignment]
    save(path, NEW)


def killed_by_write(folder: Path) -> list[tuple[int, float]]:
    """A kill at each step, until a process has fewer steps than that and ends well."""
    path, found = folder / "predictions.npz", [(-1, OLD)]
    torch.set_num_threads(1)  # a fork has the thread that forked, and no other
    while found[-1][0]:
        save(path, OLD)
        code = wait(fork(lambda: die_saving(path, len(found) - 1)))
        found.append((code, float(load_predictions(path).probability[0, 0])))
    return found[1:]


if __name__ == "__main__":
    answer({"killed-by-write": killed_by_write})
