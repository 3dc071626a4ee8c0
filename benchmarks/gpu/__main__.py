"""`python -m benchmarks.gpu PART DEVICE FOLDER`: run one part; each row is a line of JSON on stdout."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import device, step
from benchmarks.gpu.bench import Bench, Measurement, rows

Part = Callable[[Bench], Iterator[Measurement]]


def main() -> None:
    """Entry point. stdout carries rows only; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, where, folder = sys.argv[1:]
    bench = Bench(device=torch.device(where, 0) if where == "cuda" else torch.device(where), work=Path(folder))
    for row in rows(part_named(name)(bench)):
        answers.write(json.dumps(row) + "\n")


def part_named(name: str) -> Part:
    """The part of this name, one of PARTS. Those that need DALI or run programs are imported only for themselves."""
    kind, _, network = name.partition("-")
    if network:
        return partial(step.steps, network=f"{step.FAMILY}{network}")
    parts: dict[str, Part] = {
        "ceilings": device.ceilings,
        "augmentation": device.augmentation,
        "optimizers": step.optimizers,
        "precision": step.precision,
        "profiles": step.profiles,
    }
    if kind not in parts:
        from benchmarks.gpu import feed, programs

        parts |= {"tests": programs.tests, "loader": feed.loader}
        parts |= {"fed": programs.fed, "training": programs.training}
    return parts[kind]


if __name__ == "__main__":
    main()
