"""How a rate is measured: warm-up, repeats in turn, median and spread, and what it was measured on."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy
import torch

from kkanji import __version__
from kkanji.train import commit
from shards import write_file

SETTLE_S = 1.0  # prefetching threads of the candidate before fill their queues; the next must not pay for that


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Something to measure: `run` handles `images` images."""

    name: str
    run: Callable[[], object]
    images: int
    prepare: Callable[[], object] = lambda: None
    """Done before each run, unmeasured: uses up what was made ready ahead."""


def measure(candidates: list[Candidate], repeats: int) -> list[dict[str, Any]]:
    """Images/s of each. The candidates take turns, so that a slow minute of a shared machine hits all of them."""
    for candidate in candidates:
        candidate.run()  # warm-up: page cache, compilation, memory pools
    rates: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for _ in range(repeats):
        for candidate in candidates:
            sleep(SETTLE_S)
            candidate.prepare()
            start = perf_counter()
            candidate.run()
            rates[candidate.name].append(candidate.images / (perf_counter() - start))
    return [_row(candidate.name, rates[candidate.name]) for candidate in candidates]


def environment() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "kkanji": __version__,
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "dali": version("nvidia-dali-cuda120"),
        "load_before": os.getloadavg()[0],
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """The JSON that tables are made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(result, indent=1) + "\n")


def print_table(rows: list[dict[str, Any]], reference: str) -> None:
    """Rates beside each other, and as shares of the reference's median."""
    whole = next(row["median"] for row in rows if row["name"] == reference)
    sys.stdout.write(f"{'':44}{'images/s':>12}{'lowest':>12}{'highest':>12}{'share':>8}\n")
    for row in rows:
        figures = "".join(f"{row[name]:12,.0f}" for name in ("median", "lowest", "highest"))
        sys.stdout.write(f"{row['name']:44}{figures}{row['median'] / whole:8.0%}\n")


def _row(name: str, rates: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "n": len(rates),
        "median": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
