"""Validate the simulation against a small real pipeline whose stages sleep.

The shards, their cache, the prefetching, the order, the gather, the queue and the barrier between ranks are the
project's own. Fetching a shard, gathering and the step also sleep for tens of milliseconds, so that other load on the
machine hardly matters. Ranks are threads.
"""

import statistics
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Queue
from time import perf_counter, sleep
from typing import Any

from benchmarks.measure import make_images
from benchmarks.peers import Job
from benchmarks.peers.ours import write
from benchmarks.simulation.cases import Case, Hardware, SimulatedRun, Trouble
from benchmarks.simulation.simulate import simulate
from kkanji.data.training_set import PREFETCH
from shards import Plan, WindowedOrder, read_manifest
from shards.cache.cache import Cache
from shards.format.layout import IMAGE_BYTES
from shards.order.sequential import cut, numbers_of
from shards.read.columns import SplitColumns
from shards.read.files import SplitFiles
from shards.read.packed import PackedReader
from shards.read.prefetch import shards_ahead
from shards.store.store import FolderStore

IMAGES, SHARD, MICRO = 12_000, 250, 125
WINDOW = 2
WHOLE = 1 << 40  # a shard is one request


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """A pipeline, by the times for which its stages sleep."""

    name: str
    """Name in tables."""
    ranks: int = 1
    """Number of ranks; 1 by default."""
    fetch_s: float = 0.02
    """Seconds to fetch a shard of SHARD images."""
    gather_s: float = 0.01
    """Seconds to gather a micro-batch of MICRO images."""
    step_s: float = 0.01
    """Seconds to train on a micro-batch of MICRO images."""
    micro_batches: int = 1
    """Micro-batches of a rank in a step; 1 by default."""
    slow: tuple[tuple[int, float], ...] = ()
    """Slow ranks as (rank, factor), as in Trouble."""
    stalls: tuple[tuple[int, int, float], ...] = ()
    """Pauses as (rank, step, seconds), as in Trouble."""

    @property
    def plan(self) -> Plan:
        """Steps and spans of the epoch."""
        return Plan(samples=IMAGES, epochs=1, batch_size=MICRO * self.micro_batches * self.ranks)

    def case(self) -> Case:
        """The same pipeline as a case for the simulation."""
        hardware = Hardware(
            ranks=self.ranks,
            request_s=self.fetch_s,
            cores=self.ranks,
            gather_s=self.gather_s / MICRO,
            image_s=self.step_s / MICRO,
        )
        run = SimulatedRun(
            images=IMAGES,
            batch=self.plan.batch_size,
            micro=MICRO,
            shard=SHARD,
            stored_bytes=IMAGE_BYTES,
            part=WHOLE,
            window=WINDOW,
            ahead=shards_ahead([SHARD * IMAGE_BYTES]),
            prefetch=PREFETCH,
        )
        return Case(hardware=hardware, run=run, trouble=Trouble(slow=self.slow, stalls=self.stalls))


PACES = (
    Pace(name="step-bound", step_s=0.03),
    Pace(name="gather-bound", gather_s=0.03, step_s=0.02),
    Pace(name="fetch-bound", fetch_s=0.96),
    Pace(name="fetch and step balanced", fetch_s=0.8, step_s=0.025),
    Pace(name="gather and step balanced", gather_s=0.04, step_s=0.04),
    Pace(name="two ranks, one cache, fetch-bound", ranks=2, fetch_s=1.2, step_s=0.02),
    Pace(name="two ranks, two micro-batches a step", ranks=2, micro_batches=2, fetch_s=0.2, step_s=0.06),
    Pace(name="four ranks, one 1.5 times as slow", ranks=4, step_s=0.08, slow=((2, 1.5),)),
    Pace(name="three ranks, two pauses", ranks=3, step_s=0.08, stalls=((0, 4, 0.2), (2, 9, 0.25))),
)


class SlowStore(FolderStore):
    """A store that takes this many seconds longer for every file."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder)
        self._seconds = seconds

    def download(self, name: str, size: int, target: Path) -> None:
        """Sleep, then copy the file."""
        sleep(self._seconds)
        super().download(name, size, target)


def validate(paces: Sequence[Pace] = PACES, *, repeats: int = 3) -> list[dict[str, Any]]:
    """For each pace the predicted and the measured images/s, and the relative error of the prediction.

    Measured is the median of this number of runs.
    """
    with tempfile.TemporaryDirectory(prefix="kkanji-benchmark-", ignore_cleanup_errors=True) as folder:
        source = Path(folder) / "source"
        packed = Path(folder) / "packed"
        make_images(source, IMAGES)
        write(
            Job(source=str(source), folder=str(packed), batch=MICRO, threads=1, shard_bytes=(SHARD + 1) * IMAGE_BYTES)
        )
        measure(Pace(name="warm-up", step_s=0.0), packed)  # Numba compiles the gather
        return [_compare(pace, packed, repeats) for pace in paces]


def _compare(pace: Pace, folder: Path, repeats: int) -> dict[str, Any]:
    rates = [IMAGES / measure(pace, folder) for _ in range(repeats)]
    predicted = simulate(pace.case()).images_per_s
    median = statistics.median(rates)
    summary = {"n": repeats, "predicted": predicted, "median": median, "lowest": min(rates), "highest": max(rates)}
    return {"name": pace.name, **summary, "error": predicted / median - 1}


def measure(pace: Pace, folder: Path) -> float:
    """Seconds that an epoch of the set in the folder takes, with an empty cache."""
    barrier = threading.Barrier(pace.ranks)
    # After an error a download may still write into the cache folder for a moment, so it may fail to be removed.
    with tempfile.TemporaryDirectory(prefix="cache-", dir=folder.parent, ignore_cleanup_errors=True) as cache:
        readers = [_open(pace, folder, Path(cache)) for _ in range(pace.ranks)]
        started = perf_counter()
        with ThreadPoolExecutor(pace.ranks) as pool:
            ranks = [pool.submit(_train, pace, rank, reader, barrier) for rank, reader in enumerate(readers)]
        seconds = perf_counter() - started
    for error in sorted(filter(None, (rank.exception() for rank in ranks)), key=_is_consequence):
        raise error
    trained = sum(rank.result() for rank in ranks)
    if trained != IMAGES:
        raise RuntimeError(f"{trained} images arrived, expected {IMAGES}")
    return seconds


def _is_consequence(error: BaseException) -> bool:
    """Whether an error only follows from that of another rank, which broke the barrier."""
    return isinstance(error, threading.BrokenBarrierError)


def _open(pace: Pace, folder: Path, cache: Path) -> PackedReader:
    store, manifest, kept = SlowStore(folder, pace.fetch_s), read_manifest(folder), Cache(cache, 1 << 40)
    files = SplitFiles(store, manifest, "train", kept)
    return PackedReader(files, SplitColumns(store, store, manifest, "train", files, kept))


def _train(pace: Pace, rank: int, reader: PackedReader, barrier: threading.Barrier) -> int:
    """Run all steps of a rank; returns the number of images it saw."""
    factor = dict(pace.slow).get(rank, 1.0)
    stalls = {step: seconds for stalled, step, seconds in pace.stalls if stalled == rank}
    fed = _fed(pace, rank, reader)
    seen = 0
    try:
        for step in range(pace.plan.steps):
            sleep(stalls.get(step, 0.0))
            for count in islice(fed, pace.micro_batches):
                sleep(count * pace.step_s / MICRO * factor)
                seen += count
            barrier.wait()
    except BaseException:
        barrier.abort()  # otherwise the other ranks would wait forever
        raise
    return seen + sum(fed)


def _fed(pace: Pace, rank: int, reader: PackedReader) -> Iterator[int]:
    """Sizes of the micro-batches, which a thread gathers ahead of use."""
    order = WindowedOrder([SHARD] * (IMAGES // SHARD), seed=0, window=WINDOW)
    ready: Queue[int | None] = Queue(PREFETCH)
    spans = (part for step in range(pace.plan.steps) for part in _micro_batches(pace, rank, step))

    def feed() -> None:
        try:
            for numbers in reader.follow(numbers_of(order, spans)):
                sleep(len(numbers) * pace.gather_s / MICRO)
                reader.gather(numbers, sources=False)
                ready.put(len(numbers))
        finally:
            ready.put(None)

    with ThreadPoolExecutor(1) as pool:
        feeding = pool.submit(feed)
        try:
            yield from iter(ready.get, None)
        except GeneratorExit:  # the rank stopped early: empty the queue, so that the thread can end
            for _ in iter(ready.get, None):
                pass
            raise
        feeding.result()


def _micro_batches(pace: Pace, rank: int, step: int) -> Iterator[tuple[int, int]]:
    start, stop = pace.plan.rank_span(step, rank, pace.ranks)
    return (cut(start, stop, part, pace.micro_batches) for part in range(pace.micro_batches))
