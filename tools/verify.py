"""Proof, for the screen, that a shard set is whole and its splits share no original."""

import time
from collections.abc import Iterator
from pathlib import Path

import tyro

from kkanji.classes import read_class_map
from shards import InputError, Manifest, read_manifest
from shards import verify as verify_shards
from tools.progress import count_bytes

PROBLEMS_FOUND = 1


def verify(folder: tyro.conf.Positional[Path], /) -> None:
    """Check a shard set: every byte, every label, every count, and that no original is in two splits.

    Exits with status 1 and one line for each problem when it is not clean.

    Example: python -m tools verify shards

    Args:
        folder: shard set, made by `python -m tools pack` or `balance`
    """
    started = time.perf_counter()
    manifest = read_manifest(folder)
    total = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    with count_bytes(total) as progress:
        result = verify_shards(folder, progress=progress.update)
    problems = [*result.problems, *_class_problems(folder, manifest)]
    seconds = time.perf_counter() - started
    for line in _description(folder, manifest):
        print(line)
    rate = f"{result.bytes / 1e6 / seconds:,.0f} MB/s"
    print(f"checked {result.samples:,} samples, {result.bytes:,} bytes in {seconds:.1f} s, {rate}")
    for problem in problems:
        print(f"problem: {problem}")
    if problems:
        raise SystemExit(PROBLEMS_FOUND)
    print("clean")


def _description(folder: Path, manifest: Manifest) -> Iterator[str]:
    yield f"{folder}: {manifest.name}, {manifest.classes:,} classes, lineage {manifest.lineage}"
    for name, split in manifest.splits.items():
        distinct = sum(split.originals_per_class)
        yield f"  {name}: {split.samples:,} samples of {distinct:,} originals in {len(split.shards)} shards"
    yield f"  licence: {manifest.licence}"
    yield f"  sha256 of dataset.json: {manifest.identity()}"


def _class_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    try:
        classes = read_class_map(folder)
    except InputError as error:
        yield str(error)
        return
    if len(classes) != manifest.classes:
        yield f"{folder}: index.json has {len(classes)} classes, expected {manifest.classes}; pack the set again"
