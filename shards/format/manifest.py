"""`dataset.json`: what a shard set consists of. The file is written last: without it there is no set.

Version 2 adds the fields that say how shards are stored, version 3 the number of images of each class that are rendered
from fonts, version 4 the columns of each split, and its shards as columns instead of a JSON list for each block, which
at 100,000 shards took 20 s to read. Version 5 has the shards in files of their own, `SPLIT.shards-00000.json` and so
on, each as version 4 has them. Sets are written in version 4, or in version 5 if `dataset.json` would be larger than a
reader takes; what older releases wrote is read in the version that it has, and keeps its bytes and its identity.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol, cast

import numpy as np

from shards.format.layout import IMAGE_SIZE
from shards.format.shard_table import Counts, Shard, ShardTable

FORMAT = "kkanji-shards"
VERSIONS = (1, 2, 3, 4, 5)
MANIFEST_NAME = "dataset.json"
CLASSES_NAME = "index.json"
SHORT, LONG = np.dtype(">u4"), np.dtype(">u8")  # numbers of 8 and of 16 hexadecimal digits
COLUMNS = ("labels", "sources", "by_class")
BLOCK_FIELDS = ("offset", "bytes", "samples", "crc32")
COMPRESSED_FIELDS = (*BLOCK_FIELDS, "plain_crc32")

Layout = Literal["packed", "image"]
Compression = Literal["none", "zstd", "lz4"]


class Lineage(StrEnum):
    """Whether the original that each image was made from is on record."""

    KNOWN = "known"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One of the set's splits: train, val or test."""

    shards: Sequence[Shard]
    """Shards of the split, in stored order; kept as a `ShardTable`."""
    samples_per_class: tuple[int, ...]
    """Stored images of each class."""
    originals_per_class: tuple[int, ...]
    """Different originals of each class: fewer than its images if the set was balanced by augmentation."""
    rendered_per_class: tuple[int, ...] = ()
    """Originals of each class that are rendered from fonts; empty if there are none, or before version 3."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the file of each of COLUMNS; empty before version 4."""
    parts: tuple[str, ...] = ()
    """sha256 of each file with shards, `part_name`; empty before version 5."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", ShardTable.of(self.shards))

    @property
    def table(self) -> ShardTable:
        """The shards as columns."""
        return cast(ShardTable, self.shards)

    @property
    def samples(self) -> int:
        """Images in the split."""
        return int(self.table.blocks.samples.sum())

    @property
    def rendered_counts(self) -> tuple[int, ...]:
        """`rendered_per_class`, with a zero for each class if that is empty."""
        return self.rendered_per_class or (0,) * len(self.originals_per_class)


class Stored(Protocol):
    """How the shards of a set are stored."""

    @property
    def layout(self) -> Layout:
        """As in Manifest."""

    @property
    def compression(self) -> Compression:
        """As in Manifest."""


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
        return json.dumps(manifest_to_dict(self), ensure_ascii=False) + "\n"

    def identity(self) -> str:
        """sha256 of `dataset.json`: two sets are equal if and only if these are."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    """The JSON object in `dataset.json`."""
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
        "splits": {name: _split_to_dict(manifest, split, version) for name, split in manifest.splits.items()},
    }


def part_name(split: str, number: int) -> str:
    """The file with one part of a split's shards: `train.shards-00000.json`."""
    return f"{split}.shards-{number:05}.json"


def _lowest_version(manifest: Manifest) -> int:
    if any(split.parts for split in manifest.splits.values()):
        return 5
    if any(split.columns for split in manifest.splits.values()):
        return 4
    if any(split.rendered_per_class for split in manifest.splits.values()):
        return 3
    return 1 if (manifest.layout, manifest.compression, manifest.base) == ("packed", "none", "") else 2


def _split_to_dict(manifest: Manifest, split: Split, version: int) -> dict[str, Any]:
    counts = {
        "samples": split.samples,
        "samples_per_class": list(split.samples_per_class),
        "originals_per_class": list(split.originals_per_class),
    }
    if version > 3:
        rendered = {"rendered_per_class": list(split.rendered_per_class), "columns": dict(split.columns)}
        shards = {"parts": list(split.parts)} if version > 4 else table_to_dict(manifest, split.table)
        return {**counts, **rendered, "shards": shards}
    # `drawn_per_class` is what version 3 calls it. A rename there would change the identity of the sets that exist.
    rendered = {"drawn_per_class": list(split.rendered_per_class)} if version > 2 else {}
    fields = row_fields(manifest.compression != "none")
    rows = [_shard_to_dict(manifest, shard, fields) for shard in split.shards]
    return {**counts, **rendered, "block_fields": list(fields), "shards": rows}


def _shard_to_dict(manifest: Manifest, shard: Shard, fields: tuple[str, ...]) -> dict[str, Any]:
    """A shard of version 3 or lower, with a row for each block."""
    return {
        "name": shard.name,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        **({"table_sha256": shard.table_sha256} if manifest.layout == "image" else {}),
        "blocks": [[getattr(block, field) for field in fields] for block in shard.blocks],
    }


def table_to_dict(manifest: Stored, table: ShardTable) -> dict[str, Any]:
    """The shards of version 4, column by column; what there is of each block, in hexadecimal digits without a gap.

    Offsets follow from sizes, as do the sizes of plain packed blocks from their images.
    """
    blocks = table.blocks
    return {
        "name": list(table.names),
        "bytes": table.bytes.tolist(),
        "sha256": list(table.sha256),
        **({"table_sha256": list(table.table_sha256)} if manifest.layout == "image" else {}),
        "blocks": table.block_counts.tolist(),
        "block_samples": _digits(blocks.samples, SHORT),
        **(
            {}
            if has_plain_blocks(manifest.layout, manifest.compression)
            else {"block_bytes": _digits(blocks.bytes, LONG)}
        ),
        "block_crc32": _digits(blocks.crc32, SHORT),
        **({} if blocks.plain_crc32 is None else {"block_plain_crc32": _digits(blocks.plain_crc32, SHORT)}),
    }


def has_plain_blocks(layout: Layout, compression: Compression) -> bool:
    """Whether the images of a block decide its size."""
    return layout == "packed" and compression == "none"


def row_fields(compressed: bool) -> tuple[str, ...]:
    """What a row of the block table has in version 3 and lower."""
    return COMPRESSED_FIELDS if compressed else BLOCK_FIELDS


def _digits(numbers: Counts, kind: np.dtype[np.unsignedinteger[Any]]) -> str:
    """Numbers in as many hexadecimal digits each as a type has."""
    return numbers.astype(kind).tobytes().hex()
