"""`dataset.json`: what a shard set consists of. The set exists only when this file does; it is written last."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from shards.errors import CorruptShard, MissingShard, StorageError
from shards.layout import ALIGNMENT, IMAGE_SIZE, block_bytes

FORMAT = "kkanji-shards"
VERSION = 1
MANIFEST_NAME = "dataset.json"
CLASSES_NAME = "index.json"
SHARD_NAME = re.compile(r"\w[\w.-]*\.tar")  # a plain file name: nothing outside the folder, nothing hidden
BLOCK_FIELDS = ("offset", "bytes", "samples", "crc32")
MOST = 1 << 47  # bytes that a process can address; no count in a manifest is larger

Lineage = Literal["known", "unknown"]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar."""

    name: str
    bytes: int
    sha256: str
    blocks: tuple[Block, ...]

    @property
    def samples(self) -> int:
        """Images in the shard."""
        return sum(block.samples for block in self.blocks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A part of the set that is used as one: train, val or test."""

    shards: tuple[Shard, ...]
    samples_per_class: tuple[int, ...]
    """Images of each class as stored."""
    originals_per_class: tuple[int, ...]
    """Different originals behind them: fewer than the images where a set was balanced by augmentation."""

    @property
    def samples(self) -> int:
        """Images in the split."""
        return sum(shard.samples for shard in self.shards)


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
    history: Mapping[str, Any] = field(default_factory=dict)
    """How the set was made: tools, their options, counts of what was dropped."""
    splits: Mapping[str, Split]

    def to_json(self) -> str:
        """The content of `dataset.json`."""
        return json.dumps(_manifest_to_dict(self), ensure_ascii=False) + "\n"

    def identity(self) -> str:
        """sha256 of `dataset.json`: equal for equal sets and for no others."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a set's `dataset.json`.

    Raises: MissingShard without one, CorruptShard when it is not what this version writes, StorageError.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise MissingShard(_no_manifest(folder))
    try:
        return parse_manifest(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptShard(f"{path}: {found}; make the set again with `python -m tools pack`") from error


def parse_manifest(text: str) -> Manifest:
    """The manifest in a JSON text. Raises ValueError, KeyError, TypeError or RecursionError with what is wrong."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"not a shard set: expected an object with format {FORMAT!r}")
    if data["version"] != VERSION:
        raise ValueError(f"format version {data['version']}, but this kkanji reads version {VERSION}")
    if data["image_shape"] != [IMAGE_SIZE, IMAGE_SIZE]:
        raise ValueError(f"images of shape {data['image_shape']}, expected {[IMAGE_SIZE, IMAGE_SIZE]}")
    if data["lineage"] not in ("known", "unknown"):
        raise ValueError(f"lineage {data['lineage']!r}, expected 'known' or 'unknown'")
    splits = _of_type(dict, data, "splits")
    manifest = Manifest(
        name=_of_type(str, data, "name"),
        licence=_of_type(str, data, "licence"),
        lineage=data["lineage"],
        classes=_count(data["classes"], "classes"),
        seed=_of_type(int, data, "seed"),
        history=_of_type(dict, data, "history"),
        splits={name: _split_from_dict(split) for name, split in splits.items()},
    )
    _check(manifest)
    if _manifest_to_dict(manifest) != data:
        raise ValueError("fields that contradict each other, or that this version does not write")
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.classes < 1:
        raise ValueError("classes is 0, expected at least one")
    manifest.identity()  # UnicodeEncodeError, a ValueError, for half a surrogate pair, which nothing can print
    for name, split in manifest.splits.items():
        _check_split(name, split, manifest.classes)
    names = [shard.name for split in manifest.splits.values() for shard in split.shards]
    if len(set(names)) < len(names):
        raise ValueError(f"{len(names)} shards but {len(set(names))} names; expected a file for each")


def _check_split(name: str, split: Split, classes: int) -> None:
    if len(split.samples_per_class) != classes or sum(split.samples_per_class) != split.samples:
        raise ValueError(f"split {name!r}: counts per class do not add up to {split.samples} samples")
    pairs = zip(split.originals_per_class, split.samples_per_class, strict=True)
    if any(originals > samples for originals, samples in pairs):
        raise ValueError(f"split {name!r}: a class has more originals than images")
    for shard in split.shards:
        _check_shard(shard)


def _check_shard(shard: Shard) -> None:
    """A shard must be a plain name, and its blocks must follow each other without a gap."""
    if not SHARD_NAME.fullmatch(shard.name):
        raise ValueError(f"shard name {shard.name!r} is not a plain file name that ends in .tar")
    if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
        raise ValueError(f"{shard.name}: sha256 {shard.sha256!r}, expected 64 hexadecimal digits")
    position = 0
    for block in shard.blocks:
        if block.offset != position or block.samples < 1 or block.bytes != block_bytes(block.samples):
            raise ValueError(f"{shard.name}: block at {block.offset} does not fit the packed layout")
        position += block.bytes
    if shard.bytes != position + ALIGNMENT:
        raise ValueError(f"{shard.name}: {shard.bytes} bytes, expected {position + ALIGNMENT}")


def _manifest_to_dict(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": manifest.name,
        "licence": manifest.licence,
        "lineage": manifest.lineage,
        "image_shape": [IMAGE_SIZE, IMAGE_SIZE],
        "classes": manifest.classes,
        "seed": manifest.seed,
        "history": dict(manifest.history),
        "splits": {name: _split_to_dict(split) for name, split in manifest.splits.items()},
    }


def _split_to_dict(split: Split) -> dict[str, Any]:
    return {
        "samples": split.samples,
        "samples_per_class": list(split.samples_per_class),
        "originals_per_class": list(split.originals_per_class),
        "block_fields": list(BLOCK_FIELDS),
        "shards": [
            {
                "name": shard.name,
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "blocks": [[block.offset, block.bytes, block.samples, block.crc32] for block in shard.blocks],
            }
            for shard in split.shards
        ],
    }


def _split_from_dict(data: dict[str, Any]) -> Split:
    return Split(
        shards=tuple(_shard_from_dict(shard) for shard in data["shards"]),
        samples_per_class=tuple(_count(number, "samples_per_class") for number in data["samples_per_class"]),
        originals_per_class=tuple(_count(number, "originals_per_class") for number in data["originals_per_class"]),
    )


def _shard_from_dict(data: dict[str, Any]) -> Shard:
    blocks = (dict(zip(BLOCK_FIELDS, map(_count, row, BLOCK_FIELDS), strict=True)) for row in data["blocks"])
    return Shard(
        name=data["name"],
        bytes=_count(data["bytes"], "bytes"),
        sha256=data["sha256"],
        blocks=tuple(Block(**block) for block in blocks),
    )


def _of_type(kind: type[Value], data: dict[str, Any], field: str) -> Value:
    value = data[field]
    if type(value) is not kind:
        raise TypeError(f"{field} is {str(value)[:60]!r}, expected {kind.__name__}")
    return value


def _count(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{field} is {str(value)[:60]!r}, expected a whole number from 0 on")
    return value


def _no_manifest(folder: Path) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; expected a shard set (made by `python -m tools pack`)"
    return (
        f"{folder}: no {MANIFEST_NAME}, so this is not a complete shard set; "
        "make it with `python -m tools pack` (an interrupted run leaves none: run it again)"
    )
