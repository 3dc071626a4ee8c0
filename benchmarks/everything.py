"""Run all benchmarks one after another, then update the tables and charts that are made from their results."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.subject import ROOT
from kkanji.environment import has_bfloat16
from shards import InputError

# A network and batch that a CPU trains in minutes. A GPU gets the benchmark's defaults.
ON_A_CPU = ("--model", "kkanji_efficientnet_fused_s", "--batch-size", "2048")
DOCUMENTS = tuple(Path("docs") / name for name in ("speed.md", "large-batch.md", "results.md"))  # that have tables


def everything(
    *,
    peers: Path = Path(sys.executable),
    originals: Path | None = None,
    documents: tuple[Path, ...] = DOCUMENTS,
) -> None:
    """Run the benchmarks, write their results, and update tables and charts. Takes 20 to 30 minutes on 2 cores.

    If a benchmark fails, the others still run. Not included are accuracy, which takes hours, models, and scans.

    Example: python -m benchmarks all --peers .venv-peers/bin/python

    Args:
        peers: Python of the environment that has the other libraries; those it lacks are skipped by name
        originals: folder made by `kkanji combine` and `split`, for benchmark prepare; left out if not given
        documents: Markdown files whose tables are updated
    """
    failed = [command[0] for command in commands(peers, originals, documents) if not _run(command)]
    if failed:
        raise InputError(f"failed: {', '.join(failed)}; their messages are above")


def commands(peers: Path, originals: Path | None, documents: tuple[Path, ...]) -> Iterator[tuple[str, ...]]:
    """Arguments for `python -m benchmarks`, in an order in which scale comes after the results that it reads."""
    others = ("--peers", str(peers))
    yield ("loader", *others, "--images", "50000", "--repeats", "3")
    yield ("stream", *others, "--images", "100000", "--seconds", "2")
    if originals:
        yield ("prepare", str(originals), *others)
    if torch.cuda.is_available():
        yield ("gpu",)
    precision = "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32"
    yield ("train", *(() if torch.cuda.is_available() else (*ON_A_CPU, "--precision", precision)))
    yield ("size",)
    yield ("scale",)
    yield ("table", "--update", *map(str, documents))
    yield ("chart",)


def _run(command: tuple[str, ...]) -> bool:
    sys.stdout.write(f"\n== {' '.join(command)}\n")
    sys.stdout.flush()
    start = perf_counter()
    done = subprocess.run([sys.executable, "-m", "benchmarks", *command], cwd=ROOT, check=False)  # noqa: S603  (our own)
    sys.stdout.write(f"== {command[0]}: {perf_counter() - start:.0f} s, status {done.returncode}\n")
    return done.returncode == 0
