"""`dataset.json`: what a shard set consists of. The set exists only when this file does; it is written last.

Version 2 has the fields that say how shards are stored, version 3 also how many images of each class are drawn from
fonts. A set is written in the lowest version that has what it needs: older releases read it, and one that they wrote
keeps its identity.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

from shards.errors import CorruptShard, MissingShard, StorageError
from shards.format.layout import ALIGNMENT, IMAGE_SIZE, block_bytes
from shards.format.manifest_rules import check_manifest

FORMAT = "kkanji-shards"
VERSIONS = (1, 2, 3)
MANIFEST_NAME = "dataset.json"
CLASSES_NAME = "index.json"
BLOCK_FIELDS = ("offset", "bytes", "samples", "crc32")
COMPRESSED_FIELDS = (*BLOCK_FIELDS, "plain_crc32")
MOST = 1 << 47  # bytes that a process can address; no count in a manifest is larger

Lineage = Literal["known", "unknown"]
Layout = Literal["packed", "image"]
Compression = Literal["none", "zstd", "lz4"]
Value = TypeVar("Value")


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
    drawn_per_class: tuple[int, ...] = ()
    """How many of these originals are drawn from fonts; empty where none is, or where the writer did not tell."""

    @property
    def samples(self) -> int:
        """Images in the split."""
        return sum(shard.samples for shard in self.shards)

    @property
    def drawn_counts(self) -> tuple[int, ...]:
        """`drawn_per_class`, with zeros where that is empty."""
        return self.drawn_per_class or (0,) * len(self.originals_per_class)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A shard set."""

    name: str
    """The data's name, for people."""
    licence: str
    """The line to print with anything made from the data."""
    lineage: Lineage
    """Whether the original of every image is known, so that splits can be proved apart."""
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


class Readable(Protocol):
    """Where small files are read from: `shards.store.store.Store`."""

    location: str

    def read(self, name: str) -> bytes:
        """A whole file. Raises MissingShard, StorageError."""


def read_manifest(source: Path | Readable) -> Manifest:
    """Read and check the `dataset.json` of a set in a folder or an object store.

    Raises: MissingShard without one, CorruptShard when it is not what this version writes, StorageError.
    """
    where = f"{source if isinstance(source, Path) else source.location}/{MANIFEST_NAME}"
    try:
        return parse_manifest(_read(source).decode())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptShard(f"{where}: {found}; make the set again with `python -m tools pack`") from error


def parse_manifest(text: str) -> Manifest:
    """The manifest in a JSON text. Raises ValueError, KeyError, TypeError or RecursionError with what is wrong."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"not a shard set: expected an object with format {FORMAT!r}")
    if data["version"] not in VERSIONS:
        raise ValueError(f"format version {data['version']}, but this kkanji reads versions {VERSIONS}")
    if data["image_shape"] != [IMAGE_SIZE, IMAGE_SIZE]:
        raise ValueError(f"images of shape {data['image_shape']}, expected {[IMAGE_SIZE, IMAGE_SIZE]}")
    stored = data if data["version"] > 1 else {"layout": "packed", "compression": "none", "base": ""}
    splits = _of_type(dict, data, "splits")
    compressed, tables, drawn = stored["compression"] != "none", stored["layout"] == "image", data["version"] > 2
    manifest = Manifest(
        name=_of_type(str, data, "name"),
        licence=_of_type(str, data, "licence"),
        lineage=_one_of(Lineage, data, "lineage"),
        classes=_count(data["classes"], "classes"),
        seed=_of_type(int, data, "seed"),
        layout=_one_of(Layout, stored, "layout"),
        compression=_one_of(Compression, stored, "compression"),
        base=_of_type(str, stored, "base"),
        history=_of_type(dict, data, "history"),
        splits={name: _split_from_dict(split, _fields(compressed), tables, drawn) for name, split in splits.items()},
    )
    check_manifest(manifest)
    if _manifest_to_dict(manifest) != data:
        raise ValueError("fields that contradict each other, or that this version does not write")
    return manifest


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
        "splits": {name: _split_to_dict(manifest, split, drawn=version > 2) for name, split in manifest.splits.items()},
    }


def _lowest_version(manifest: Manifest) -> int:
    if any(split.drawn_per_class for split in manifest.splits.values()):
        return 3
    return 1 if (manifest.layout, manifest.compression, manifest.base) == ("packed", "none", "") else 2


def _split_to_dict(manifest: Manifest, split: Split, *, drawn: bool) -> dict[str, Any]:
    fields = _fields(manifest.compression != "none")
    return {
        "samples": split.samples,
        "samples_per_class": list(split.samples_per_class),
        "originals_per_class": list(split.originals_per_class),
        **({"drawn_per_class": list(split.drawn_per_class)} if drawn else {}),
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


def _split_from_dict(data: dict[str, Any], fields: tuple[str, ...], tables: bool, drawn: bool) -> Split:
    names = ("samples_per_class", "originals_per_class", *(("drawn_per_class",) if drawn else ()))
    counts = {name: tuple(_count(number, name) for number in data[name]) for name in names}
    return Split(shards=tuple(_shard_from_dict(shard, fields, tables) for shard in data["shards"]), **counts)


def _shard_from_dict(data: dict[str, Any], fields: tuple[str, ...], tables: bool) -> Shard:
    blocks = (dict(zip(fields, map(_count, row, fields), strict=True)) for row in data["blocks"])
    return Shard(
        name=data["name"],
        bytes=_count(data["bytes"], "bytes"),
        sha256=data["sha256"],
        blocks=tuple(Block(**block) for block in blocks),
        table_sha256=_of_type(str, data, "table_sha256") if tables else None,
    )


def _one_of(choices: Any, data: Mapping[str, Any], field: str) -> Any:
    """The value of a field whose type is this Literal."""
    if data[field] not in get_args(choices):
        known = " or ".join(map(repr, get_args(choices)))
        raise ValueError(f"{field} {data[field]!r}, expected {known}")
    return data[field]


def _of_type(kind: type[Value], data: Mapping[str, Any], field: str) -> Value:
    value = data[field]
    if type(value) is not kind:
        raise TypeError(f"{field} is {str(value)[:60]!r}, expected {kind.__name__}")
    return value


def _count(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{field} is {str(value)[:60]!r}, expected a whole number from 0 on")
    return value


def _read(source: Path | Readable) -> bytes:
    if isinstance(source, Path):
        return _read_local(source)
    try:
        return source.read(MANIFEST_NAME)
    except MissingShard as error:
        raise MissingShard(f"{source.location}: {_NO_MANIFEST}") from error


def _read_local(folder: Path) -> bytes:
    if not folder.exists():
        raise MissingShard(f"{folder}: no such folder; expected a shard set (made by `python -m tools pack`)")
    path = folder / MANIFEST_NAME
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingShard(f"{folder}: {_NO_MANIFEST}") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


_NO_MANIFEST = (
    f"no {MANIFEST_NAME}, so this is not a complete shard set; "
    "make it with `python -m tools pack` (an interrupted run leaves none: run it again)"
)
