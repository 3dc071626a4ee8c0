"""Proof that a set is whole and honest: every byte, every label, and no original in two splits."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards import layout
from shards.manifest import CLASSES_NAME, MANIFEST_NAME, Manifest, Shard, Split, read_manifest
from shards.reader import SplitReader

Progress = Callable[[int], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was found."""

    samples: int
    bytes: int
    problems: tuple[str, ...]
    """One sentence each: where, what was found, what was expected. Empty for a clean set."""


def verify(folder: Path, *, progress: Progress = lambda _: None) -> Verification:
    """Check a set against its manifest. `progress` is told of bytes as they are read.

    Raises: MissingShard or CorruptShard when there is no readable manifest.
    """
    manifest = read_manifest(folder)
    problems = [*_strangers(folder, manifest)]
    sources: dict[str, NDArray[np.uint64]] = {}
    for name, split in manifest.splits.items():
        damage = [problem for shard in split.shards for problem in _shard_problems(folder, shard, progress)]
        problems += damage
        if not damage:
            reader = SplitReader(folder, split)
            found = reader.sources()
            sources[name] = _distinct(found)
            problems += _content_problems(name, split, reader.labels(), found)
    problems += _leaks(manifest, sources)
    samples = sum(split.samples for split in manifest.splits.values())
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    return Verification(samples=samples, bytes=size, problems=tuple(problems))


def _strangers(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Files that the manifest does not know: left from another set, or put there by hand."""
    shards = [shard.name for split in manifest.splits.values() for shard in split.shards]
    known = {MANIFEST_NAME, CLASSES_NAME, *shards, *(Path(name).with_suffix(".idx").name for name in shards)}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".tar", ".idx", ".json") and path.name not in known:
            yield f"{path}: not part of this set; remove it"


def _shard_problems(folder: Path, shard: Shard, progress: Progress) -> Iterator[str]:
    path = folder / shard.name
    try:
        size = path.stat().st_size
        if size == shard.bytes:
            yield from _byte_problems(path, shard, progress)
        else:
            yield f"{path}: {size} bytes, expected {shard.bytes}"
    except OSError as error:
        yield f"{path}: {error.strerror}; expected {shard.bytes} bytes"
    yield from _index_problems(path.with_suffix(".idx"), shard)


def _byte_problems(path: Path, shard: Shard, progress: Progress) -> Iterator[str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for number, block in enumerate(shard.blocks):
            data = file.read(block.bytes)
            digest.update(data)
            progress(len(data))
            if layout.checksum(data) != block.crc32:
                found = f"crc32 {layout.checksum(data):08x}, expected {block.crc32:08x}"
                yield f"{path}: block {layout.block_key(number)} at byte {block.offset}: {found}"
        rest = file.read()
        digest.update(rest)
        progress(len(rest))
    if digest.hexdigest() != shard.sha256:
        yield f"{path}: sha256 {digest.hexdigest()}, expected {shard.sha256}"


def _index_problems(path: Path, shard: Shard) -> Iterator[str]:
    expected = layout.dali_index([(block.offset, block.samples) for block in shard.blocks])
    try:
        if path.read_bytes() != expected.encode():
            yield f"{path}: not the DALI index of its shard; pack the set again"
    except OSError as error:
        yield f"{path}: {error.strerror}; DALI's own reader needs it"


def _content_problems(name: str, split: Split, labels: NDArray[np.int32], sources: NDArray[np.uint64]) -> Iterator[str]:
    classes = len(split.samples_per_class)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        yield f"{name}: sample {outside[0]} has label {labels[outside[0]]}, expected 0..{classes - 1}"
        return
    counts = np.bincount(labels, minlength=classes)
    if not np.array_equal(counts, split.samples_per_class):
        where = np.flatnonzero(counts != split.samples_per_class)[0]
        yield f"{name}: class {where} has {counts[where]} samples, expected {split.samples_per_class[where]}"
    originals = _originals_per_class(labels, sources, counts)
    if not np.array_equal(originals, split.originals_per_class):
        where = np.flatnonzero(originals != split.originals_per_class)[0]
        yield f"{name}: class {where} has {originals[where]} originals, expected {split.originals_per_class[where]}"


def _originals_per_class(
    labels: NDArray[np.int32], sources: NDArray[np.uint64], counts: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Different sources of each class: 0.1 s for 2 M samples (16-bit labels get a radix sort), unique pairs 1.9 s."""
    by_class = sources[np.argsort(labels.astype(np.min_scalar_type(len(counts))), kind="stable")]
    return np.array([len(_distinct(part)) for part in np.split(by_class, np.cumsum(counts)[:-1])])


def _distinct(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted, without repeats. np.unique hashes since NumPy 2.3: 15 s instead of 0.8 s for 10 M different values."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def _leaks(manifest: Manifest, sources: dict[str, NDArray[np.uint64]]) -> Iterator[str]:
    """Originals in two splits: what is measured on one would have been learnt from the other."""
    if manifest.lineage == "unknown":
        return
    names = sorted(sources)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            shared = np.intersect1d(sources[first], sources[second], assume_unique=True)
            if len(shared):
                yield f"{len(shared)} originals are in both {first} and {second}, for example {shared[0]:016x}"
