"""The simulation against reality: a small pipeline of the project's own parts, whose stages sleep.

Real are the shards and their files, the cache that the ranks share, the look-ahead, the order, the gather, the queue
and the ranks' waiting for each other. Bringing a shard, gathering and the step sleep for tens of milliseconds, so that
what else the machine does hardly matters. Ranks are threads.
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
from benchmarks.simulation.cases import Case, Hardware, Run, Trouble
from benchmarks.simulation.simulate import simulate
from kkanji.data.feed import PREFETCH
from shards import Plan, WindowedOrder, read_manifest
from shards.cache.cache import Cache
from shards.format.layout import IMAGE_BYTES
from shards.order.sequential import cut, numbers_of
from shards.read.files import SplitFiles
from shards.read.packed import PackedReader
from shards.read.prefetch import shards_ahead
from shards.store.store import FolderStore

IMAGES, SHARD, MICRO = 12_000, 250, 125
WINDOW = 2
WHOLE = 1 << 40  # a shard is one request


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """A pipeline: how long its stages sleep."""

    name: str
    ranks: int = 1
    fetch_s: float = 0.02
    """For a shard of SHARD images."""
    gather_s: float = 0.01
    """For a micro-batch of MICRO images."""
    step_s: float = 0.01
    """For the same."""
    micro_batches: int = 1
    """Of a rank in a step."""
    slow: tuple[tuple[int, float], ...] = ()
    """(rank, factor), as in Trouble."""
    stalls: tuple[tuple[int, int, float], ...] = ()
    """(rank, step, seconds), as in Trouble."""

    @property
    def plan(self) -> Plan:
        return Plan(samples=IMAGES, epochs=1, batch_size=MICRO * self.micro_batches * self.ranks)

    def case(self) -> Case:
        """What the simulation is told of it."""
        hardware = Hardware(
            ranks=self.ranks,
            request_s=self.fetch_s,
            cores=self.ranks,
            gather_s=self.gather_s / MICRO,
            image_s=self.step_s / MICRO,
        )
        run = Run(
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
    Pace(name="the step limits", step_s=0.03),
    Pace(name="the gather limits", gather_s=0.03, step_s=0.02),
    Pace(name="bringing shards limits", fetch_s=0.96),
    Pace(name="bringing shards and the step alike", fetch_s=0.8, step_s=0.025),
    Pace(name="gather and step alike", gather_s=0.04, step_s=0.04),
    Pace(name="two ranks, one cache, shards limit", ranks=2, fetch_s=1.2, step_s=0.02),
    Pace(name="two ranks, two micro-batches a step", ranks=2, micro_batches=2, fetch_s=0.2, step_s=0.06),
    Pace(name="four ranks, one takes half as long again", ranks=4, step_s=0.08, slow=((2, 1.5),)),
    Pace(name="three ranks, two pauses", ranks=3, step_s=0.08, stalls=((0, 4, 0.2), (2, 9, 0.25))),
)


class SlowStore(FolderStore):
    """A folder whose files take their time."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder)
        self._seconds = seconds

    def download(self, name: str, size: int, target: Path) -> None:
        """Copy a file, late."""
        sleep(self._seconds)
        super().download(name, size, target)


def validate(paces: Sequence[Pace] = PACES, *, repeats: int = 3) -> list[dict[str, Any]]:
    """Images/s as predicted and as measured, the median of so many runs; and by what share the prediction is off."""
    with tempfile.TemporaryDirectory(prefix="kkanji-benchmark-", ignore_cleanup_errors=True) as folder:
        source, packed = Path(folder) / "source", Path(folder) / "packed"
        make_images(source, IMAGES)
        write(
            Job(source=str(source), folder=str(packed), batch=MICRO, threads=1, shard_bytes=(SHARD + 1) * IMAGE_BYTES)
        )
        measure(Pace(name="warm-up", step_s=0.0), packed)  # compiles the gather
        return [_compare(pace, packed, repeats) for pace in paces]


def _compare(pace: Pace, folder: Path, repeats: int) -> dict[str, Any]:
    rates = [IMAGES / measure(pace, folder) for _ in range(repeats)]
    predicted, median = simulate(pace.case()).images_per_s, statistics.median(rates)
    summary = {"n": repeats, "predicted": predicted, "median": median, "lowest": min(rates), "highest": max(rates)}
    return {"name": pace.name, **summary, "error": predicted / median - 1}


def measure(pace: Pace, folder: Path) -> float:
    """Seconds of an epoch of the set in the folder, with an empty cache."""
    barrier = threading.Barrier(pace.ranks)
    # After an error, what was being fetched goes on for a moment.
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
        raise RuntimeError(f"{trained} images came, expected {IMAGES}")
    return seconds


def _is_consequence(error: BaseException) -> bool:
    """Of another rank's error, which broke the barrier."""
    return isinstance(error, threading.BrokenBarrierError)


def _open(pace: Pace, folder: Path, cache: Path) -> PackedReader:
    files = SplitFiles(SlowStore(folder, pace.fetch_s), read_manifest(folder), "train", Cache(cache, 1 << 40))
    return PackedReader(files)


def _train(pace: Pace, rank: int, reader: PackedReader, barrier: threading.Barrier) -> int:
    """All steps of a rank; how many images it saw."""
    factor = dict(pace.slow).get(rank, 1.0)
    stalls = {step: seconds for stalled, step, seconds in pace.stalls if stalled == rank}
    fed, seen = _fed(pace, rank, reader), 0
    try:
        for step in range(pace.plan.steps):
            sleep(stalls.get(step, 0.0))
            for count in islice(fed, pace.micro_batches):
                sleep(count * pace.step_s / MICRO * factor)
                seen += count
            barrier.wait()
    except BaseException:
        barrier.abort()  # or the others would wait for ever
        raise
    return seen + sum(fed)


def _fed(pace: Pace, rank: int, reader: PackedReader) -> Iterator[int]:
    """Sizes of the micro-batches that a thread gathers ahead of use."""
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
        except GeneratorExit:  # given up: let the thread run out
            for _ in iter(ready.get, None):
                pass
            raise
        feeding.result()


def _micro_batches(pace: Pace, rank: int, step: int) -> Iterator[tuple[int, int]]:
    start, stop = pace.plan.rank_span(step, rank, pace.ranks)
    return (cut(start, stop, part, pace.micro_batches) for part in range(pace.micro_batches))
