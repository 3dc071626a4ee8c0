"""What filling a cache with many small shards costs, and reading shuffled images from it once it is full.

python -m benchmarks.size.cached 10000 data/many

The shards have 125 black images each, compressed: 0.5 MB in the cache, next to nothing before. The folder keeps the set
for the next run, and the cache lies beside it while this runs.
"""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated

import numpy as np
import tyro

from kkanji import cli
from kkanji.classes import ClassMap
from kkanji.data.feed import KEEP
from shards import Lineage, Manifest, SampleOrder, Samples, ShardSet, Split, shard_name, write_manifest, write_shard
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


def cached(shards: tyro.conf.Positional[int], folder: tyro.conf.Positional[Path], /) -> list[str]:
    """Fill a cache with so many shards, then map and read them in micro-batches. Returns a line for each figure."""
    if not (folder / MANIFEST_NAME).exists():
        _make(folder, shards)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place, Cache(Path(place), MANY_BYTES) as cache:
        reader = ShardSet(folder, cache=cache).split("train")
        assert isinstance(reader, PackedReader)  # noqa: S101  (as made above)
        each = np.arange(0, reader.samples, IMAGES)
        found = [_line("filling", shards, "shard", *_timed(_read(reader, [each[n : n + 1] for n in range(shards)])))]
        for size in MICRO_BATCHES:
            spans = [(start, start + size) for start in range(0, TIMED, size)]
            stream = _read(reader, chain([each], numbers_of(SampleOrder(samples=reader.samples, seed=size), spans)))
            found.append(_line("mapping", shards, "shard", *_timed(islice(stream, 1))))
            found.append(_line(f"micro-batches of {size:,}", TIMED, "image", *_timed(stream)))
    return found


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
    folder.mkdir()
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
