"""Verifies that a shard set is complete and undamaged, and that its splits share no original."""

import time
from collections.abc import Iterator
from pathlib import Path

import tyro

from kkanji.classes import parse_class_map
from shards import InputError, Manifest, MissingShard, read_manifest
from shards import verify as verify_shards
from shards.errors import printable
from shards.format.manifest import CLASSES_NAME
from shards.store.store import Store, open_store
from tools.progress import count_bytes

PROBLEMS_FOUND = 1


def verify(location: tyro.conf.Positional[str | Path], /) -> None:
    """Verify every byte, label and count of a shard set, and that no original is in two splits.

    Prints a line for each problem and then exits with status 1. Shards in an object store are fetched one by one, with
    at most two on disk (in $TMPDIR) at a time.

    Example: kkanji verify data/shards

    Args:
        location: Shard set to verify, a folder or a URL (s3://, gs://, az://, https://).
    """
    started = time.perf_counter()
    store = open_store(location)
    manifest = read_manifest(store.folder or store)
    total = sum(int(split.table.bytes.sum()) for split in manifest.splits.values())
    with count_bytes(total) as progress:
        result = verify_shards(location, progress=progress.update)
    problems = [*result.problems, *_class_problems(store, manifest)]
    seconds = time.perf_counter() - started
    for line in _description(store.location, manifest):
        print(line)
    rate = f"{result.bytes / 1e6 / seconds:,.0f} MB/s"
    print(f"checked {result.samples:,} samples, {result.bytes:,} bytes in {seconds:.1f} s, {rate}")
    if not result.listed:
        print("not checked: files that do not belong to the set, since a web server does not list its files")
    for problem in problems:
        print(f"problem: {printable(problem)}")
    if problems:
        raise SystemExit(PROBLEMS_FOUND)
    print("clean")


def _description(location: str, manifest: Manifest) -> Iterator[str]:
    yield f"{location}: {printable(manifest.name)}, {manifest.classes:,} classes, lineage {manifest.lineage}"
    for name, split in manifest.splits.items():
        distinct = sum(split.originals_per_class)
        rendered = f" ({sum(split.rendered_per_class):,} rendered from fonts)" if split.rendered_per_class else ""
        yield f"  {name}: {split.samples:,} samples of {distinct:,} originals{rendered} in {len(split.shards)} shards"
    yield f"  licence: {printable(manifest.licence)}"
    yield f"  sha256 of dataset.json: {manifest.identity()}"


def _class_problems(store: Store, manifest: Manifest) -> Iterator[str]:
    where = store.url(CLASSES_NAME)
    try:
        classes = parse_class_map(store.read(CLASSES_NAME), where)
    except MissingShard:
        yield f"{where}: missing; it is the class map of a shard set"
        return
    except InputError as error:
        yield str(error)
        return
    if len(classes) != manifest.classes:
        yield f"{where} has {len(classes)} classes, expected {manifest.classes}; pack the set again"
