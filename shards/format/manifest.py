"""`dataset.json`: what a shard set consists of. The file is written last: without it there is no set.

Version 2 adds the fields that say how shards are stored, version 3 the number of images of each class that are rendered
from fonts. A set is written in the lowest version that has the fields it needs, so that older releases can read it, and
a set that they wrote keeps its identity.
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
    """Where the block starts, in bytes from the start of the tar."""
    bytes: int
    """Length of the block in bytes, headers and padding included."""
    samples: int
    """Images in the block."""
    crc32: int
    """crc32 of all bytes of the block as stored."""
    plain_crc32: int | None = None
    """crc32 of the bytes that a compressed block unpacks to; None for an uncompressed block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar, as it is stored."""

    name: str
    """File name of the tar."""
    bytes: int
    """Length of the tar in bytes."""
    sha256: str
    """sha256 of the tar, in hexadecimal digits."""
    blocks: tuple[Block, ...]
    """Blocks of whole samples, one after another from byte 0 on; only the end of the archive follows them."""
    table_sha256: str | None = None
    """sha256 of the file `table_name`; None in the packed layout, which needs no table."""

    @property
    def samples(self) -> int:
        """Images in the shard."""
        return sum(block.samples for block in self.blocks)

    @property
    def index_name(self) -> str:
        """Name of the file with the shard's DALI index, beside the tar."""
        return self.name.removesuffix(".tar") + ".idx"

    @property
    def table_name(self) -> str:
        """Name of the file with the shard's table of samples, beside `dataset.json`; only in the image layout."""
        return self.name.removesuffix(".tar") + ".samples.npy"

    @property
    def plain(self) -> tuple[Block, ...]:
        """The blocks after unpacking; the stored blocks if nothing is compressed."""
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
    """One of the set's splits: train, val or test."""

    shards: tuple[Shard, ...]
    """Shards of the split, in stored order."""
    samples_per_class: tuple[int, ...]
    """Stored images of each class."""
    originals_per_class: tuple[int, ...]
    """Different originals of each class: fewer than its images if the set was balanced by augmentation."""
    rendered_per_class: tuple[int, ...] = ()
    """Originals of each class that are rendered from fonts; empty if there are none, or before version 3."""

    @property
    def samples(self) -> int:
        """Images in the split."""
        return sum(shard.samples for shard in self.shards)

    @property
    def rendered_counts(self) -> tuple[int, ...]:
        """`rendered_per_class`, with a zero for each class if that is empty."""
        return self.rendered_per_class or (0,) * len(self.originals_per_class)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A shard set."""

    name: str
    """Name of the data, for people."""
    licence: str
    """Line to print with anything made from the data."""
    lineage: Lineage
    """Whether the original of every image is known, so that splits can be proven disjoint."""
    classes: int
    """Classes of the class map, including those without images."""
    seed: int
    """Seed that the set was made with."""
    layout: Layout = "packed"
    """`packed`: blocks of many images as arrays. `image`: a PNG or JPEG file and its label for each."""
    compression: Compression = "none"
    """Compression of the images in each block of the packed layout; `none` by default."""
    base: str = ""
    """Folder or prefix of the tars if others made them; empty, the default, if they are beside `dataset.json`."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """How the set was made: commands, their options, counts of dropped images."""
    splits: Mapping[str, Split]
    """The splits by name."""

    def to_json(self) -> str:
        """The content of `dataset.json`."""
        return json.dumps(_manifest_to_dict(self), ensure_ascii=False) + "\n"

    def identity(self) -> str:
        """sha256 of `dataset.json`: two sets are equal if and only if these are."""
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
    # The field of rendered_per_class keeps its first name: a rename would change the bytes, and so the identity, of
    # every set of version 3, and checkpoints compare identities. The rename comes with the next version.
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
