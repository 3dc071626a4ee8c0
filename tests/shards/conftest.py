"""Small shard sets, made from arrays."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from shards import Manifest, OutputFolder, Samples, Shard, Split, shard_name, write_manifest, write_shard
from shards.format.manifest import Compression, Lineage

CLASSES = 7

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]


@pytest.fixture(scope="session")
def make_samples() -> MakeSamples:
    """`make_samples(n, seed=0)`: n random images, each with a random label and an original of its own."""

    def make(n: int, seed: int = 0) -> Samples:
        random = np.random.default_rng((n, seed))
        images = random.integers(0, 256, (n, 64, 64), np.uint8)
        return Samples(images, random.integers(0, CLASSES, n, np.int32), random.integers(0, 1 << 64, n, np.uint64))

    return make


@pytest.fixture(scope="session")
def write_set(tmp_path_factory: pytest.TempPathFactory) -> WriteSet:
    """`write_set({"train": samples, ...}, [[2, 1], [3]])`: a set in a new folder; each shard as its blocks' sizes."""

    def write(
        samples: Mapping[str, Samples],
        blocks: Sequence[Sequence[int]],
        *,
        output: Path | None = None,
        lineage: Lineage = Lineage.KNOWN,
        compression: Compression = "none",
        maker: str = "",
    ) -> Path:
        output = output or tmp_path_factory.mktemp("sets", numbered=True) / "set"
        with OutputFolder(output, maker=maker) as folder:
            splits = {name: write_split(folder, name, part, blocks, compression) for name, part in samples.items()}
            manifest = Manifest(
                name="Test",
                licence="none",
                lineage=lineage,
                classes=CLASSES,
                seed=1,
                history={"by": "a test"},
                splits=splits,
                compression=compression,
            )
            write_manifest(folder, manifest, "{}")
        return output

    return write


def describe(splits: Mapping[str, Split], lineage: Lineage) -> Manifest:
    """The manifest of a set of these splits."""
    history = {"by": "a test"}
    return Manifest(
        name="Test", licence="none", lineage=lineage, classes=CLASSES, seed=1, history=history, splits=splits
    )


def write_split(
    folder: Path, name: str, samples: Samples, blocks: Sequence[Sequence[int]], compression: Compression = "none"
) -> Split:
    """Write a split's shards, which together hold all its samples."""
    position = itertools.count()
    shards: list[Shard] = []
    for number, sizes in enumerate(blocks):
        rows = [list(itertools.islice(position, size)) for size in sizes]
        path = folder / shard_name(name, number)
        shards.append(write_shard(path, take_blocks(samples, rows), compression=compression))
    assert next(position) == len(samples.labels), "the blocks do not add up to the samples"
    pairs = set(zip(samples.labels.tolist(), samples.sources.tolist(), strict=True))
    return Split(
        shards=tuple(shards),
        samples_per_class=per_class(samples.labels.tolist()),
        originals_per_class=per_class([label for label, _ in pairs]),
    )


def take_blocks(samples: Samples, blocks: Sequence[Sequence[int]]) -> Iterator[Samples]:
    """The samples of these rows, block by block."""
    for rows in blocks:
        yield Samples(samples.images[rows], samples.labels[rows], samples.sources[rows])


def per_class(labels: Sequence[int]) -> tuple[int, ...]:
    """How often each label occurs."""
    return tuple(labels.count(label) for label in range(CLASSES))
