"""What filling a cache with many small shards costs, reading shuffled images from it, and sharing it.

python -m benchmarks.size.cached 10000 data/many

The shards have 125 black images each, compressed: 0.5 MB in the cache, next to nothing before. The folder keeps the set
for the next run, and the cache lies beside it while this runs. The processes that share it each gather images of all
shards, as a node's ranks do, and measure their memory while all have them mapped.
"""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from time import perf_counter, process_time
from typing import Annotated

import numpy as np
import tyro

from kkanji import cli
from kkanji.classes import ClassMap
from kkanji.data.training_set import KEEP
from shards import (
    InputError,
    Lineage,
    Manifest,
    SampleOrder,
    Samples,
    ShardSet,
    Split,
    SplitReader,
    shard_name,
    write_manifest,
    write_shard,
)
from shards.cache.cache import Cache
from shards.format.layout import IMAGE_SIZE
from shards.format.manifest import MANIFEST_NAME
from shards.order.sequential import numbers_of
from shards.read.packed import PackedReader
from shards.read.prefetch import Numbers

IMAGES = 125  # of a shard
MICRO_BATCHES = (125, 500, 6250)
TIMED = 500_000  # images of a pass
MANY_BYTES = 10**15
WAIT_S = 600  # for the slowest process


def cached(
    shards: tyro.conf.Positional[int], folder: tyro.conf.Positional[Path], /, *, processes: int = 8
) -> list[str]:
    """Fill a cache with so many shards, then map and read them in micro-batches. Returns a line for each figure."""
    if min(shards, processes) < 1:
        raise InputError(f"{shards} shards, {processes} processes: expected at least one of each")
    data = folder / str(shards)
    if not (data / MANIFEST_NAME).exists():
        _make(data, shards)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return [*_alone(data, Path(place)), *_together(data, Path(place), processes)]


def _alone(data: Path, place: Path) -> Iterator[str]:
    with Cache(place, MANY_BYTES) as cache:
        reader = ShardSet(data, cache=cache).split("train")
        assert isinstance(reader, PackedReader)  # noqa: S101  (as made below)
        each = np.arange(0, reader.samples, IMAGES)
        yield _line("filling", len(each), "shard", *_timed(_read(reader, np.split(each, len(each)))))
        for size in MICRO_BATCHES:
            stream = _read(reader, chain([each], _shuffled(reader, size)))
            yield _line("mapping", len(each), "shard", *_timed(islice(stream, 1)))
            yield _line(f"micro-batches of {size:,}", TIMED, "image", *_timed(stream))


def _together(data: Path, place: Path, count: int) -> Iterator[str]:
    """A line for each of so many processes."""
    new = get_context("spawn")
    with new.Manager() as manager:
        meeting = manager.Barrier(count, timeout=WAIT_S)
        with ProcessPoolExecutor(count, mp_context=new) as pool:
            users = [pool.submit(_user, data, place, meeting) for _ in range(count)]
            yield from (f"process {number + 1} of {count}: {user.result()}" for number, user in enumerate(users))


def _user(data: Path, place: Path, meeting: Barrier) -> str:
    """One of several processes: its memory, and what it had of the cache."""
    before = _memory()
    with Cache(place, MANY_BYTES) as cache:
        reader = ShardSet(data, cache=cache).split("train")
        requests = chain([np.arange(0, reader.samples, IMAGES)], _shuffled(reader, MICRO_BATCHES[-1]))
        stream = reader.follow(requests, keep=KEEP)
        for numbers in islice(stream, TIMED // MICRO_BATCHES[-1]):
            reader.gather(numbers)
        meeting.wait()  # all have mapped everything
        after = _memory()
        meeting.wait()  # nobody has let go of it yet
        stream.close()
        counts = cache.counts
    grown = ", ".join(f"{name} {after[name]:.1f} MB ({after[name] - before[name]:+.1f})" for name in after)
    return f"{grown}; {counts.hits} hits, {counts.misses} misses, {counts.made} made, {counts.evicted} evicted"


def _memory() -> dict[str, float]:
    """MB of this process: its share of all pages, what is its own alone, and page tables."""
    status = Path("/proc/self/status").read_text() + Path("/proc/self/smaps_rollup").read_text()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if " kB" in line}
    return {"share": sizes["Pss"], "own": sizes["Pss_Anon"], "page tables": sizes["VmPTE"]}


def _shuffled(reader: SplitReader, size: int) -> Iterator[Numbers]:
    spans = [(start, min(start + size, TIMED)) for start in range(0, TIMED, size)]
    return numbers_of(SampleOrder(samples=reader.samples, seed=size), spans)


def _read(reader: PackedReader, requests: Iterable[Numbers]) -> Iterator[None]:
    """As the loader does: shards at hand, addresses and labels looked up. DALI then copies the pixels."""
    for numbers in reader.follow(requests, keep=KEEP):
        reader.locate(numbers)
        yield


def _timed(steps: Iterable[None]) -> tuple[float, float]:
    """Seconds of the wall and of the CPU, by all threads."""
    wall, cpu = perf_counter(), process_time()
    for _ in steps:
        pass
    return perf_counter() - wall, process_time() - cpu


def _line(what: str, count: int, unit: str, wall: float, cpu: float) -> str:
    costs = f"{wall:.2f} s, {cpu:.2f} s of CPU, {cpu / count * 1e6:,.2f} us of CPU each {unit}"
    return f"{what}: {costs}, {count / wall:,.0f} a second"


def _make(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    black, labels = np.zeros((IMAGES, IMAGE_SIZE, IMAGE_SIZE), np.uint8), np.zeros(IMAGES, np.int32)
    sources = np.arange(IMAGES, dtype=np.uint64)
    shards = [
        write_shard(folder / name, [Samples(black, labels, sources + number * IMAGES)], compression="zstd")
        for number, name in ((np.uint64(number), shard_name("train", number)) for number in range(count))
    ]
    samples = count * IMAGES
    split = Split(shards=shards, samples_per_class=(samples,), originals_per_class=(samples,))
    manifest = Manifest(
        name="black",
        licence="none",
        lineage=Lineage.KNOWN,
        classes=1,
        seed=0,
        compression="zstd",
        history={"black": True},
        splits={"train": split},
    )
    write_manifest(folder, manifest, ClassMap.of([0x4E00]).to_json())


def main() -> None:
    """Run with the arguments of the command line."""
    found: Annotated[list[str], tyro.conf.Suppress] = tyro.cli(cached)
    sys.stdout.write("\n".join(found) + "\n")


if __name__ == "__main__":
    cli.run(main)
