"""A manifest read and checked, from a folder or a store."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

from shards.errors import CorruptShard, MissingShard, StorageError
from shards.format.layout import IMAGE_SIZE
from shards.format.manifest import (
    FORMAT,
    MANIFEST_NAME,
    VERSIONS,
    Block,
    Compression,
    Layout,
    Lineage,
    Manifest,
    Shard,
    Split,
    _fields,
    _manifest_to_dict,
)
from shards.format.manifest_rules import check_manifest

MOST = 1 << 47  # bytes that a process can address; no count in a manifest is larger


Value = TypeVar("Value")


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
    compressed, tables, rendered = stored["compression"] != "none", stored["layout"] == "image", data["version"] > 2
    manifest = Manifest(
        name=_of_type(str, data, "name"),
        licence=_of_type(str, data, "licence"),
        lineage=Lineage(_one_of(tuple(Lineage), data, "lineage")),
        classes=_count(data["classes"], "classes"),
        seed=_of_type(int, data, "seed"),
        layout=_one_of(get_args(Layout), stored, "layout"),
        compression=_one_of(get_args(Compression), stored, "compression"),
        base=_of_type(str, stored, "base"),
        history=_of_type(dict, data, "history"),
        splits={name: _split_from_dict(split, _fields(compressed), tables, rendered) for name, split in splits.items()},
    )
    check_manifest(manifest)
    if _manifest_to_dict(manifest) != data:
        raise ValueError("fields that contradict each other, or that this version does not write")
    return manifest


def _split_from_dict(data: dict[str, Any], fields: tuple[str, ...], tables: bool, rendered: bool) -> Split:
    counts = {name: _counts(data, name) for name in ("samples_per_class", "originals_per_class")}
    if rendered:
        counts["rendered_per_class"] = _counts(data, "drawn_per_class")  # as version 3 named it
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


def _one_of(choices: tuple[str, ...], data: Mapping[str, Any], field: str) -> Any:
    """The value of a field with these choices."""
    if data[field] not in choices:
        known = " or ".join(repr(str(choice)) for choice in choices)
        raise ValueError(f"{field} {data[field]!r}, expected {known}")
    return data[field]


def _of_type(kind: type[Value], data: Mapping[str, Any], field: str) -> Value:
    value = data[field]
    if type(value) is not kind:
        raise TypeError(f"{field} is {str(value)[:60]!r}, expected {kind.__name__}")
    return value


def _counts(data: Mapping[str, Any], field: str) -> tuple[int, ...]:
    return tuple(_count(number, field) for number in data[field])


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
