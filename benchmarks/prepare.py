"""Preparing balanced data: images/s of augmentation on one core, and of `kkanji balance` as a whole.

`python -m benchmarks prepare ORIGINALS` measures, in turn,

- our policy, with the strength of the legacy transforms (whose statistics are measured too) and as training uses it
- the legacy project's transforms through SciPy and scikit-image, one image at a time as in that project

and then `kkanji balance` with one and with two workers. From that it estimates the time for the full set.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import tyro

from benchmarks.measure import FULL, Turns, environment, write_files, write_result
from benchmarks.peers import Job, probe
from benchmarks.rows import Row, print_rows
from benchmarks.subject import ROOT, Peer
from shards import InputError, read_manifest

ORDER = "one thread"
OURS = Peer(
    name="kkanji: policy at the legacy statistics", module="augmented:matched", files="ours", order=ORDER, own=True
)
LEGACY = Peer(name="legacy transforms, SciPy and scikit-image", module="legacy", files="legacy", order=ORDER)
PEERS = (
    OURS,
    Peer(name="kkanji: policy as training uses it", module="augmented:default", files="ours", order=ORDER, own=True),
    LEGACY,
)
WORKERS = (1, 2)
POLL_S = 0.1
DISK_BYTES_PER_S = 2e9  # assumed: the rate at which an NVMe disk takes a long write


def prepare(
    originals: tyro.conf.Positional[Path],
    /,
    *,
    per_class: int = 300,
    batch: int = 2_000,
    repeats: int = 7,
    seconds: float = 2.0,
    scratch: Path | None = None,
    peers: Path = Path(sys.executable),
    output: Path = Path("benchmarks/results/prepare.json"),
) -> None:
    """Measure offline augmentation on one core and `kkanji balance` as a whole, and estimate the full size from it.

    Example: python -m benchmarks prepare originals --peers .venv-peers/bin/python

    Args:
        originals: folder with a split, made by `kkanji combine` and `kkanji split`
        per_class: training images of every class; with 300, the set of 3,831 classes takes 4.7 GB
        batch: images that are augmented at a time
        repeats: measurements of each peer, in turn
        seconds: length of a measurement
        scratch: folder for temporary files; the system's if not given
        peers: Python of the environment that has SciPy and scikit-image; missing packages are reported as skipped
        output: JSON to write
    """
    if not (originals / "split.json").is_file():
        raise InputError(f"{originals}: no split.json; expected originals with a split")
    state = environment()
    with tempfile.TemporaryDirectory(prefix="kkanji-benchmark-", dir=scratch) as folder:
        rows = _transforms(Path(folder), originals, batch, repeats, seconds, peers)
        print_rows(rows)
        runs = [_balance(Path(folder), originals, per_class, workers) for workers in WORKERS]
    result = {
        "benchmark": "prepare",
        "options": {"per_class": per_class, "batch": batch, "seconds": seconds},
        "environment": state,
        "rows": rows,
        "times_the_legacy": times(rows),
        "balance": runs,
        "estimate": estimate(runs),
    }
    write_result(output, result)
    for line in summary(result):
        sys.stdout.write(f"{line}\n")


def times(rows: Sequence[Row]) -> dict[str, float] | None:
    """How many times as fast as the legacy transforms our policy is, at the same statistics.

    The ratio of the medians, and the least and the greatest ratio that the measurements allow. None if either could not
    be measured.
    """
    ours, legacy = (next(row for row in rows if row["name"] == peer.name) for peer in (OURS, LEGACY))
    if "n" not in legacy or "n" not in ours:
        return None
    return {
        "median": ours["median"] / legacy["median"],
        "least": ours["lowest"] / legacy["highest"],
        "most": ours["highest"] / legacy["lowest"],
    }


def estimate(runs: Sequence[Row]) -> Row:
    """Estimate the time and size of the full set on many cores, from the run with one worker. Nobody has run it."""
    single = runs[0]
    images = FULL["classes"] * FULL["images_of_a_class"]
    size = images * single["bytes_per_image"]
    computing = images / (single["images_per_cpu_second"] * FULL["cores"])
    return {
        "is": "an estimate, not a measurement",
        "images": images,
        "bytes": size,
        "cores": FULL["cores"],
        "images_per_core_second": single["images_per_cpu_second"],
        "computing_seconds": computing,
        "assumed_disk_bytes_per_second": DISK_BYTES_PER_S,
        "writing_seconds": size / DISK_BYTES_PER_S,
        "seconds": max(computing, size / DISK_BYTES_PER_S),
        "assumed": "each core as fast as one is here, all busy to the end, computing and writing at the same time",
    }


def summary(result: Row) -> list[str]:
    """Lines for the terminal."""
    lines = []
    if ratio := result["times_the_legacy"]:
        spread = f"{ratio['least']:.0f} to {ratio['most']:.0f}"
        lines.append(f"{ratio['median']:.0f} times as fast as the legacy transforms ({spread})")
    for run in result["balance"]:
        rate = f"{run['images_per_second']:,.0f} images/s, {run['images_per_cpu_second']:,.0f} a CPU second"
        memory = f"{run['peak_memory_bytes'] / 1e6:,.0f} MB of memory, mapped files included"
        lines.append(f"{run['name']}: {rate}, {run['bytes_per_image']:,.1f} bytes an image, {memory}")
    full = result["estimate"]
    size = f"{full['images']:,} images on {full['cores']} cores"
    parts = f"{full['computing_seconds']:.0f} s of computing, {full['writing_seconds']:.0f} s of writing at 2 GB/s"
    return [*lines, f"estimate, not measured: {size}: {parts}, {full['bytes'] / 1e9:,.0f} GB"]


def _transforms(folder: Path, originals: Path, batch: int, repeats: int, seconds: float, peers: Path) -> list[Row]:
    """Measure the peers on a random batch of the originals."""
    images = np.load(originals / "images.npy", mmap_mode="r")
    (folder / "source").mkdir()
    np.save(folder / "source" / "images.npy", images[np.random.default_rng(0).permutation(len(images))[:batch]])
    jobs = {
        peer.files: Job(source=f"{folder}/source", folder=f"{folder}/{peer.files}", batch=batch, threads=1)
        for peer in PEERS
    }
    write_files(PEERS, jobs, peers)
    with Turns("local", [(peer, jobs[peer.files]) for peer in PEERS], peers) as turns:
        rows = turns.rows(repeats, seconds)
    for peer, row in zip(PEERS, rows, strict=True):
        if peer in (OURS, LEGACY) and "n" in row:
            row["statistics"] = probe.measure(Path(jobs[peer.files].folder))
    return rows


def _balance(folder: Path, originals: Path, per_class: int, workers: int) -> Row:
    """Run the tool once, and measure its time and memory."""
    output = folder / "set"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "tools", "balance", str(originals), "--per-class", str(per_class)]
    command += ["--output", str(output), "--workers", str(workers)]
    before = os.times()
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  (our own)
        memory = _peak_memory(process)
        printed, _ = process.communicate()
    seconds = time.perf_counter() - started
    after = os.times()
    if process.returncode:
        raise InputError(f"`{' '.join(command)}` ended with status {process.returncode}")
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "name": f"kkanji balance --workers {workers}",
        "workers": workers,
        "seconds": seconds,
        "writing_seconds": float(re.findall(r"([\d.]+) s,", printed)[-1]),
        "cpu_seconds": cpu_seconds,
        **_rates(output, seconds, cpu_seconds),
        "peak_memory_bytes": memory,
    }


def _rates(output: Path, seconds: float, cpu_seconds: float) -> Row:
    splits = read_manifest(output).splits
    images = sum(split.samples for split in splits.values())
    return {
        "images": images,
        "train_images": splits["train"].samples,
        "originals": sum(splits["train"].originals_per_class),
        "images_per_second": images / seconds,
        "images_per_cpu_second": images / cpu_seconds,
        "bytes_per_image": sum(path.stat().st_size for path in output.iterdir()) / images,
    }


def _peak_memory(process: "subprocess.Popen[str]") -> int:
    """Wait until the process ends; the most memory that it and its children had together, in bytes.

    PSS, so that pages which they share count once.
    """
    peak = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, sum(one.memory_full_info().pss for one in (root, *root.children(recursive=True))))
        time.sleep(POLL_S)
    return peak
