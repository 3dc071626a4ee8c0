"""Rules for a `dataset.json`, so that a hostile one cannot lead a reader outside its files or exhaust its memory."""

import json
import re

import numpy as np
from numpy.typing import NDArray

from shards.format.layout import ALIGNMENT, TAR_BLOCK, block_bytes
from shards.format.manifest import COLUMNS, Manifest, Split
from shards.format.shard_table import BlockColumns, Counts, ShardTable
from shards.json_reading import MOST_COUNT

MOST_SHORT = 1 << 32  # what eight hexadecimal digits hold
SHA256 = re.compile("[0-9a-f]{64}")
SPLIT_NAME = re.compile(r"\w[\w-]*")  # begins the names of its columns' files
SHARD_NAME = re.compile(r"\w[\w.-]*\.tar")  # a plain file name: nothing outside the folder, nothing hidden
BASES = ("/", "file://", "s3://", "gs://", "az://", "http://", "https://")
MOST_COMPRESSED = 16_384  # images in a compressed block: 64 MiB, which a reader must hold in memory to unpack it
LEAST_SAMPLE = 4 * TAR_BLOCK  # of the image layout: two members, each with a header and at least one byte


def check_manifest(manifest: Manifest) -> None:
    """Raise ValueError, with what is wrong, if no writer can have made this manifest."""
    if manifest.classes < 1:
        raise ValueError("classes is 0, expected at least one")
    # UnicodeEncodeError, a ValueError, for half a surrogate pair, which nothing can print.
    json.dumps([manifest.name, manifest.licence, dict(manifest.history)], ensure_ascii=False).encode()
    if manifest.base and not (manifest.base.startswith(BASES) and manifest.base.isprintable()):
        raise ValueError(
            f"base {manifest.base!r}, expected a printable location that starts with one of {' '.join(BASES)}"
        )
    if manifest.layout == "image" and manifest.compression != "none":
        raise ValueError(f"compression {manifest.compression!r} of the image layout, expected 'none'")
    for name, split in manifest.splits.items():
        _check_split(name, split, manifest.classes)
        _check_names(split.table)
        _check_blocks(manifest, split.table)
    _check_columns(manifest)
    names = [name for split in manifest.splits.values() for name in split.table.names]
    if len(set(names)) < len(names):
        raise ValueError(f"{len(names)} shards but {len(set(names))} names; expected a file for each")


def _check_split(name: str, split: Split, classes: int) -> None:
    name.encode()
    if len(split.samples_per_class) != classes or sum(split.samples_per_class) != split.samples:
        raise ValueError(f"split {name!r}: counts per class do not add up to {split.samples} samples")
    if not _within(split.originals_per_class, split.samples_per_class):
        raise ValueError(f"split {name!r}: a class has more originals than images")
    if split.rendered_per_class and not _within(split.rendered_per_class, split.originals_per_class):
        raise ValueError(f"split {name!r}: a class has more rendered images than originals")


def _within(parts: tuple[int, ...], wholes: tuple[int, ...]) -> bool:
    return all(part <= whole for part, whole in zip(parts, wholes, strict=True))


def _check_columns(manifest: Manifest) -> None:
    """All splits have all columns, or none has any; a split's name is part of their files' names."""
    if not any(split.columns for split in manifest.splits.values()):
        return
    for name, split in manifest.splits.items():
        if not SPLIT_NAME.fullmatch(name):
            raise ValueError(f"split name {name!r} cannot begin a file's name")
        if {*split.columns} != {*COLUMNS} or not all(map(_is_sha256, split.columns.values())):
            raise ValueError(f"split {name!r}: expected sha256 of the columns {', '.join(COLUMNS)}")


def _check_names(table: ShardTable) -> None:
    """A shard must be a plain name, and have its checksums."""
    for name, *checksums in zip(table.names, table.sha256, table.table_sha256, strict=True):
        if not (isinstance(name, str) and SHARD_NAME.fullmatch(name)):
            raise ValueError(f"shard name {name!r} is not a plain file name that ends in .tar")
        for sha256 in checksums:
            if sha256 is not None and not _is_sha256(sha256):
                raise ValueError(f"{name}: sha256 {sha256!r}, expected 64 hexadecimal digits")


def _is_sha256(text: object) -> bool:
    return isinstance(text, str) and SHA256.fullmatch(text) is not None


def _check_blocks(manifest: Manifest, table: ShardTable) -> None:
    """Blocks must follow each other without a gap, and be of a size that their layout can have.

    No sum of sizes can overflow unnoticed: the first offset that is too large is refused.
    """
    blocks, per_shard = table.blocks, table.block_counts
    first = np.zeros(len(blocks.offset), bool)
    first[table.block_starts[:-1][per_shard > 0]] = True
    stops = blocks.offset + blocks.bytes
    expected = np.where(first, 0, np.roll(stops, 1))
    outside = (blocks.offset < 0) | (blocks.offset > MOST_COUNT) | (blocks.bytes < 0) | (blocks.bytes > MOST_COUNT)
    outside |= (blocks.samples >= MOST_SHORT) | (blocks.crc32 >= MOST_SHORT)
    wrong = np.flatnonzero((blocks.offset != expected) | outside | (blocks.samples < 1) | ~_fits(manifest, blocks))
    if len(wrong):
        name = table.names[int(np.searchsorted(table.block_starts, wrong[0], side="right")) - 1]
        raise ValueError(f"{name}: block at {blocks.offset[wrong[0]]} does not fit the {manifest.layout} layout")
    _check_ends(manifest, table, np.concatenate([stops, [0]])[table.block_starts[1:] - 1] * (per_shard > 0))


def _check_ends(manifest: Manifest, table: ShardTable, ends: Counts) -> None:
    """A tar must end with its blocks and the end of an archive. ends: where the last block of each shard ends."""
    right = table.bytes == ends + ALIGNMENT
    if manifest.layout == "image":  # others made it
        right |= (table.bytes % TAR_BLOCK == 0) & (table.bytes >= ends + 2 * TAR_BLOCK)
    for number in np.flatnonzero(~right)[:1]:
        raise ValueError(f"{table.names[number]}: {table.bytes[number]} bytes, expected {ends[number] + ALIGNMENT}")


def _fits(manifest: Manifest, blocks: BlockColumns) -> NDArray[np.bool_]:
    plain: Counts = block_bytes(blocks.samples)
    fits: NDArray[np.bool_] = blocks.bytes % TAR_BLOCK == 0
    if manifest.layout == "image":
        fits &= blocks.bytes >= blocks.samples * LEAST_SAMPLE
    elif manifest.compression == "none":
        fits &= blocks.bytes == plain
    else:
        fits &= (blocks.bytes <= 2 * plain) & (blocks.samples <= MOST_COMPRESSED)
    return fits
