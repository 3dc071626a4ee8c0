"""What opening a set and shuffling it cost by the number of its images: `python -m benchmarks size`.

Each set is a valid one whose pixels are holes (`benchmarks.size.fabricate`), because costs that grow with a set's size
lie in what surrounds pixels: manifest, labels, checks, page tables. Nothing is read from pixels here; the benchmark
loader does that.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np

from benchmarks.measure import environment, write_result
from benchmarks.rows import Row, plain
from benchmarks.size.fabricate import CLASSES, SHARD, fabricate
from kkanji.data.training_set import open_set
from shards import BalancedOrder, InputError, Order, SampleOrder, ShardSet, SplitReader
from shards.format.manifest import MANIFEST_NAME
from shards.order.balanced import draws_per_class

Result = TypeVar("Result")

BILLION = 1_000_000_000
TOGETHER = 16_384  # numbers looked up at a time
EPOCH = 49  # whose positions are looked up: late ones must cost what early ones do
COMPUTED = "computed"
GROWING = (
    "manifest MB",
    "manifest s",
    "open s",
    "open cold s",
    "labels s",
    "labels cold s",
    "balanced s",
    "balanced cold s",
    "CPU s",
    "memory MB",
)
"""Costs in proportion to a set's size."""


def size(
    *,
    images: tuple[int, ...] = (1_000_000, 10_000_000, 38_820_000),
    repeats: int = 5,
    sets: Path | None = None,
    output: Path = Path("benchmarks/results/size.json"),
) -> None:
    """Measure what opening and shuffling cost in sets of different sizes, and compute them for a billion images.

    The largest set takes 0.7 GB of disk and some minutes to make.

    Example: python -m benchmarks size --images 1000000 10000000

    Args:
        images: sizes of the sets, each rounded to whole classes
        repeats: openings of each set
        sets: folder that keeps the sets for the next run, on the disk to measure; by default they are temporary
        output: JSON to write
    """
    if not images or min(images) < CLASSES or repeats < 1:
        given = f"--images {' '.join(map(str, images))} --repeats {repeats}"
        raise InputError(f"{given}: expected sets of {CLASSES} images or more, opened once or more")
    with tempfile.TemporaryDirectory(prefix="kkanji-size-") as temporary:
        folder = sets or Path(temporary)
        rows = [_measured(folder / str(count), count // CLASSES, repeats) for count in sorted(images)]
    rows.append(computed(rows[-1], BILLION))
    options = {"repeats": repeats}
    write_result(output, {"benchmark": "size", "environment": environment(), "options": options, "rows": rows})
    sys.stdout.write("\n".join(plain(rows)) + "\n")


def _measured(folder: Path, per_class: int, repeats: int) -> Row:
    if not (folder / MANIFEST_NAME).exists():
        fabricate(folder, per_class)
    os.sync()  # only what is on the disk can be dropped from the page cache
    _open_all(folder)  # compiles and imports
    cold = _open_all(folder, drop=True)
    warm = [_open_all(folder) for _ in range(repeats)]
    medians = {name: statistics.median(row[name] for row in warm) for name in warm[0]}
    splits = ShardSet(folder).manifest.splits
    facts = {"images": splits["train"].samples, "shards": len(splits["train"].shards)}
    row = {"name": f"{facts['images'] / 1e6:,.1f} M", **facts, **medians}
    return row | {name.replace(" s", " cold s"): cold[name] for name in ("open s", "labels s", "balanced s")}


def _open_all(folder: Path, *, drop: bool = False) -> Row:
    """Costs of one opening. drop: out of the page cache first."""
    if drop:
        _drop(folder)
    before, cpu = _memory(), process_time()
    data, manifest_s = _timed(lambda: open_set(folder))
    read = _bytes_read()
    reader, open_s = _timed(lambda: data.split("train"))
    read = _bytes_read() - read
    labels, labels_s = _timed(reader.labels)
    if drop:
        del labels
        _drop(folder)
    balanced, balanced_s = _timed(lambda: _balanced(data, reader))
    held, cpu = _memory() - before, process_time() - cpu
    return {
        "manifest MB": (folder / "dataset.json").stat().st_size / 1e6,
        "manifest s": manifest_s,
        "open s": open_s,
        "read per shard kB": read / len(data.manifest.splits["train"].shards) / 1e3,
        "labels s": labels_s,
        "balanced s": balanced_s,
        "CPU s": cpu,
        "memory MB": held / 1e6,
        "full ns": _lookup_ns(SampleOrder(samples=reader.samples, seed=0)),
        "balanced ns": _lookup_ns(balanced),
    }


def computed(largest: Row, images: int) -> Row:
    """A row for a set that nobody made: what grows with the size in proportion, and the order full as measured."""
    factor = images / largest["images"]
    row = {name: value * factor if name in GROWING else value for name, value in largest.items()}
    order = SampleOrder(samples=images, seed=0)
    facts = {"name": f"{images / 1e6:,.0f} M, {COMPUTED}", "images": images, "shards": -(-images // SHARD)}
    return row | facts | {"full ns": _lookup_ns(order)}


def _balanced(data: ShardSet, reader: SplitReader) -> BalancedOrder:
    """Ready to give its first batch."""
    counts = np.array(data.manifest.splits["train"].samples_per_class, np.int64)
    draws = draws_per_class(counts.tolist(), 10_000)
    order = BalancedOrder(by_class=reader.columns.by_class(), counts=counts, draws=draws, seed=0)
    order.at(0, 1)
    return order


def _lookup_ns(order: Order) -> float:
    """Nanoseconds for a number, at late positions of the stream."""
    first = EPOCH * order.samples + order.samples // 3
    order.at(first, first + TOGETHER)
    _, seconds = _timed(lambda: [order.at(first + turn * TOGETHER, first + (turn + 1) * TOGETHER) for turn in range(8)])
    return seconds / (8 * TOGETHER) * 1e9


def _timed(act: Callable[[], Result]) -> tuple[Result, float]:
    started = perf_counter()
    result = act()
    return result, perf_counter() - started


def _drop(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _memory() -> int:
    """Bytes of this process that no other can share: its own memory and its page tables."""
    return 1024 * sum(_status(name) for name in ("RssAnon", "VmPTE"))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def _bytes_read() -> int:
    """Bytes that this process has read by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def measured(rows: Sequence[Row]) -> list[Row]:
    """The rows that were measured."""
    return [row for row in rows if COMPUTED not in row["name"]]
