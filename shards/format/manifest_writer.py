"""Completing a set: its columns, its class map and, last, its manifest."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from shards import json_reading
from shards.errors import InputError
from shards.format.columns import write_columns
from shards.format.manifest import CLASSES_NAME, MANIFEST_NAME, Manifest, part_name, table_to_dict
from shards.format.manifest_rules import check_manifest
from shards.format.shard_table import ShardTable
from shards.json_reading import MOST_BYTES
from shards.output.files import write_file

# Bytes of JSON: most of a part, of a shard without its name (sizes, two checksums, punctuation), of a block.
PART_BYTES, SHARD_BYTES, BLOCK_BYTES = 32 << 20, 190, 40


def write_manifest(folder: Path, manifest: Manifest, classes_json: str) -> Manifest:
    """Complete a set: write the columns of its splits, the class map and then the manifest, which is returned.

    Raises: InputError if no reader would accept it, or the labels in the shards are not those that it counts.
    """
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST_NAME}: {error}") from error
    manifest = write_columns(folder, manifest)
    content = manifest.to_json().encode()
    if len(content) > MOST_BYTES:
        manifest = write_parts(folder, manifest)
        content = manifest.to_json().encode()
    if len(content) > json_reading.MOST_BYTES:
        found = f"{len(content):,} bytes without its shards, expected at most {json_reading.MOST_BYTES:,}"
        raise InputError(f"{folder / MANIFEST_NAME}: {found}; give `kkanji combine` a shorter --name or --licence")
    write_file(folder / CLASSES_NAME, classes_json)
    # Last: readers take a folder with a manifest for a complete set.
    write_file(folder / MANIFEST_NAME, content)
    return manifest


def write_parts(folder: Path, manifest: Manifest) -> Manifest:
    """Write the shards of each split into files of their own; returns the manifest with their checksums."""
    return replace(
        manifest,
        splits={
            name: replace(split, parts=tuple(_write_part(folder, manifest, name, *part) for part in _cut(split.table)))
            for name, split in manifest.splits.items()
        },
    )


def _write_part(folder: Path, manifest: Manifest, split: str, number: int, table: ShardTable) -> str:
    """Write one part; returns its sha256."""
    content = json.dumps(table_to_dict(manifest, table)).encode() + b"\n"
    if len(content) > MOST_BYTES:  # one shard of millions of blocks
        found = f"{len(content):,} bytes, expected at most {MOST_BYTES:,}"
        raise InputError(
            f"{folder / part_name(split, number)}: {found}; give a larger --block-size, or a smaller --shard-size"
        )
    write_file(folder / part_name(split, number), content)
    return hashlib.sha256(content).hexdigest()


def _cut(table: ShardTable) -> Iterator[tuple[int, ShardTable]]:
    """A table in parts that are read at once; at least one."""
    weights = SHARD_BYTES + np.array([len(name) for name in table.names], np.int64) + BLOCK_BYTES * table.block_counts
    part = (np.cumsum(weights) - weights) // PART_BYTES
    starts = [0, *np.flatnonzero(np.diff(part) > 0) + 1, len(table)]
    for number, (first, last) in enumerate(pairwise(starts)):
        yield number, table.part(int(first), int(last))
