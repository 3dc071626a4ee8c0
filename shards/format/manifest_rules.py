"""Rules for a `dataset.json`, so that a hostile one cannot lead a reader outside its files or exhaust its memory."""

import re
from typing import TYPE_CHECKING

from shards.format.layout import ALIGNMENT, TAR_BLOCK, block_bytes

if TYPE_CHECKING:
    from shards.format.manifest import Block, Manifest, Shard, Split

SHARD_NAME = re.compile(r"\w[\w.-]*\.tar")  # a plain file name: nothing outside the folder, nothing hidden
BASES = ("/", "file://", "s3://", "gs://", "az://", "http://", "https://")
MOST_COMPRESSED = 16_384  # images in a compressed block: 64 MiB, which a reader must hold in memory to unpack it
LEAST_SAMPLE = 4 * TAR_BLOCK  # of the image layout: two members, each with a header and at least one byte


def check_manifest(manifest: "Manifest") -> None:
    """Raise ValueError, with what is wrong, if no writer can have made this manifest."""
    if manifest.classes < 1:
        raise ValueError("classes is 0, expected at least one")
    manifest.identity()  # UnicodeEncodeError, a ValueError, for half a surrogate pair, which nothing can print
    if manifest.base and not (manifest.base.startswith(BASES) and manifest.base.isprintable()):
        raise ValueError(
            f"base {manifest.base!r}, expected a printable location that starts with one of {' '.join(BASES)}"
        )
    if manifest.layout == "image" and manifest.compression != "none":
        raise ValueError(f"compression {manifest.compression!r} of the image layout, expected 'none'")
    for name, split in manifest.splits.items():
        _check_split(name, split, manifest.classes)
        for shard in split.shards:
            _check_shard(shard)
            _check_blocks(manifest, shard)
    names = [shard.name for split in manifest.splits.values() for shard in split.shards]
    if len(set(names)) < len(names):
        raise ValueError(f"{len(names)} shards but {len(set(names))} names; expected a file for each")


def _check_split(name: str, split: "Split", classes: int) -> None:
    if len(split.samples_per_class) != classes or sum(split.samples_per_class) != split.samples:
        raise ValueError(f"split {name!r}: counts per class do not add up to {split.samples} samples")
    if not _within(split.originals_per_class, split.samples_per_class):
        raise ValueError(f"split {name!r}: a class has more originals than images")
    if split.rendered_per_class and not _within(split.rendered_per_class, split.originals_per_class):
        raise ValueError(f"split {name!r}: a class has more rendered images than originals")


def _within(parts: tuple[int, ...], wholes: tuple[int, ...]) -> bool:
    return all(part <= whole for part, whole in zip(parts, wholes, strict=True))


def _check_shard(shard: "Shard") -> None:
    """A shard must be a plain name, and have its checksums."""
    if not SHARD_NAME.fullmatch(shard.name):
        raise ValueError(f"shard name {shard.name!r} is not a plain file name that ends in .tar")
    for sha256 in (shard.sha256, shard.table_sha256):
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"{shard.name}: sha256 {sha256!r}, expected 64 hexadecimal digits")


def _check_blocks(manifest: "Manifest", shard: "Shard") -> None:
    """Blocks must follow each other without a gap, and be of a size that their layout can have."""
    position = 0
    for block in shard.blocks:
        if block.offset != position or block.samples < 1 or not _fits(manifest, block):
            raise ValueError(f"{shard.name}: block at {block.offset} does not fit the {manifest.layout} layout")
        position += block.bytes
    foreign_end = manifest.layout == "image" and shard.bytes % TAR_BLOCK == 0
    if shard.bytes != position + ALIGNMENT and not (foreign_end and shard.bytes >= position + 2 * TAR_BLOCK):
        raise ValueError(f"{shard.name}: {shard.bytes} bytes, expected {position + ALIGNMENT}")


def _fits(manifest: "Manifest", block: "Block") -> bool:
    if manifest.layout == "image":
        return block.bytes % TAR_BLOCK == 0 and block.bytes >= block.samples * LEAST_SAMPLE
    plain = block_bytes(block.samples)
    if manifest.compression == "none":
        return block.bytes == plain
    return block.bytes % TAR_BLOCK == 0 and block.bytes <= 2 * plain and block.samples <= MOST_COMPRESSED
