"""`dataset.json`: what a shard set consists of. The set exists only when this file does; it is written last.

Version 2 has the fields that say how shards are stored, version 3 also how many images of each class are drawn from
fonts. A set is written in the lowest version that has what it needs: older releases read it, and one that they wrote
keeps its identity.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Any, Literal

from shards.format.layout import ALIGNMENT, IMAGE_SIZE, block_bytes

FORMAT = "kkanji-shards"
VERSIONS = (1, 2, 3)
MANIFEST_NAME = "dataset.json"
CLASSES_NAME = "index.json"
BLOCK_FIELDS = ("offset", "bytes", "samples", "crc32")
COMPRESSED_FIELDS = (*BLOCK_FIELDS, "plain_crc32")

Layout = Literal["packed", "image"]
Compression = Literal["none", "zstd", "lz4"]


class Lineage(StrEnum):
    """Whether the original that each image was made from is on record."""

    KNOWN = "known"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Where a block lies in its shard."""

    offset: int
    """Bytes from the start of the tar."""
    bytes: int
    """Length, headers and padding included."""
    samples: int
    crc32: int
    """Over all of the block's bytes."""
    plain_crc32: int | None = None
    """Over the bytes that a compressed block unpacks to; None for what is stored as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar, as it is stored."""

    name: str
    bytes: int
    sha256: str
    blocks: tuple[Block, ...]
    """Ranges of whole samples, one after another from byte 0 on; only the end of the archive follows them."""
    table_sha256: str | None = None
    """Of `table_name`; None in the packed layout, which needs no table."""

    @property
    def samples(self) -> int:
        """Images in the shard."""
        return sum(block.samples for block in self.blocks)

    @property
    def index_name(self) -> str:
        """The file beside it with its DALI index."""
        return self.name.removesuffix(".tar") + ".idx"

    @property
    def table_name(self) -> str:
        """In the image layout, the file with its table of samples, beside `dataset.json`."""
        return self.name.removesuffix(".tar") + ".samples.npy"

    @property
    def plain(self) -> tuple[Block, ...]:
        """The blocks after unpacking; those stored where nothing is compressed."""
        if all(block.plain_crc32 is None for block in self.blocks):
            return self.blocks
        sizes = [block_bytes(block.samples) for block in self.blocks]
        starts = accumulate(sizes, initial=0)
        return tuple(
            Block(offset=start, bytes=size, samples=block.samples, crc32=block.plain_crc32 or 0)
            for start, size, block in zip(starts, sizes, self.blocks, strict=False)
        )

    @property
    def plain_bytes(self) -> int:
        """Bytes of the tar after unpacking."""
        plain = self.plain
        return self.bytes if plain == self.blocks else plain[-1].offset + plain[-1].bytes + ALIGNMENT


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A part of the set that is used as one: train, val or test."""

    shards: tuple[Shard, ...]
    samples_per_class: tuple[int, ...]
    """Images of each class as stored."""
    originals_per_class: tuple[int, ...]
    """Different originals behind them: fewer than the images where a set was balanced by augmentation."""
    rendered_per_class: tuple[int, ...] = ()
    """How many of these originals are rendered from fonts; empty where none is, or where the writer did not tell."""

    @property
    def samples(self) -> int:
        """Images in the split."""
        return sum(shard.samples for shard in self.shards)

    @property
    def rendered_counts(self) -> tuple[int, ...]:
        """`drawn_per_class`, with zeros where that is empty."""
        return self.rendered_per_class or (0,) * len(self.originals_per_class)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A shard set."""

    name: str
    """The data's name, for people."""
    licence: str
    """The line to print with anything made from the data."""
    lineage: Lineage
    """Only with known lineage can splits be proved disjoint."""
    classes: int
    seed: int
    layout: Layout = "packed"
    """`packed`: blocks of many images as arrays. `image`: a PNG or JPEG file and its label for each."""
    compression: Compression = "none"
    """Of the images in each block of the packed layout."""
    base: str = ""
    """Folder or prefix of the tars where others made them; empty if they lie beside `dataset.json`."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """How the set was made: tools, their options, counts of what was dropped."""
    splits: Mapping[str, Split]

    def to_json(self) -> str:
        """The content of `dataset.json`."""
        return json.dumps(_manifest_to_dict(self), ensure_ascii=False) + "\n"

    def identity(self) -> str:
        """sha256 of `dataset.json`: equal for equal sets and for no others."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    stored = {"layout": manifest.layout, "compression": manifest.compression, "base": manifest.base}
    version = _lowest_version(manifest)
    return {
        "format": FORMAT,
        "version": version,
        "name": manifest.name,
        "licence": manifest.licence,
        "lineage": manifest.lineage,
        "image_shape": [IMAGE_SIZE, IMAGE_SIZE],
        "classes": manifest.classes,
        "seed": manifest.seed,
        **(stored if version > 1 else {}),
        "history": dict(manifest.history),
        "splits": {
            name: _split_to_dict(manifest, split, rendered=version > 2) for name, split in manifest.splits.items()
        },
    }


def _lowest_version(manifest: Manifest) -> int:
    if any(split.rendered_per_class for split in manifest.splits.values()):
        return 3
    return 1 if (manifest.layout, manifest.compression, manifest.base) == ("packed", "none", "") else 2


def _split_to_dict(manifest: Manifest, split: Split, *, rendered: bool) -> dict[str, Any]:
    fields = _fields(manifest.compression != "none")
    return {
        "samples": split.samples,
        "samples_per_class": list(split.samples_per_class),
        "originals_per_class": list(split.originals_per_class),
        **({"drawn_per_class": list(split.rendered_per_class)} if rendered else {}),
        "block_fields": list(fields),
        "shards": [_shard_to_dict(manifest, shard, fields) for shard in split.shards],
    }


def _shard_to_dict(manifest: Manifest, shard: Shard, fields: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": shard.name,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        **({"table_sha256": shard.table_sha256} if manifest.layout == "image" else {}),
        "blocks": [[getattr(block, field) for field in fields] for block in shard.blocks],
    }


def _fields(compressed: bool) -> tuple[str, ...]:
    """What a row of the block table has."""
    return COMPRESSED_FIELDS if compressed else BLOCK_FIELDS
