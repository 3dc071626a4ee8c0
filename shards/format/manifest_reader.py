"""A manifest read and checked, from a folder or a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, get_args

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
from shards.json_reading import choice, count, field, parse_json, read_bounded


class Readable(Protocol):
    """Where small files are read from: `shards.store.store.Store`."""

    location: str
    """Path or URL, for messages."""

    def read(self, name: str) -> bytes:
        """A whole file. Raises MissingShard, StorageError."""


def read_manifest(source: Path | Readable) -> Manifest:
    """Read and check the `dataset.json` of a set in a folder or an object store.

    Raises: MissingShard without one, CorruptShard when it is not what this version writes, StorageError.
    """
    where = f"{source if isinstance(source, Path) else source.location}/{MANIFEST_NAME}"
    try:
        return parse_manifest(_read(source))
    except (ValueError, KeyError, TypeError) as error:
        found = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptShard(f"{where}: {found}; make the set again with `kkanji pack`") from error


def parse_manifest(text: bytes | str) -> Manifest:
    """The manifest in a JSON text. Raises ValueError, KeyError or TypeError with what is wrong."""
    data = parse_json(text)
    if data.get("format") != FORMAT:
        raise ValueError(f"not a shard set: expected an object with format {FORMAT!r}")
    if data["version"] not in VERSIONS:
        raise ValueError(f"format version {data['version']}, but this kkanji reads versions {VERSIONS}")
    if data["image_shape"] != [IMAGE_SIZE, IMAGE_SIZE]:
        raise ValueError(f"images of shape {data['image_shape']}, expected {[IMAGE_SIZE, IMAGE_SIZE]}")
    stored = data if data["version"] > 1 else {"layout": "packed", "compression": "none", "base": ""}
    splits = field(data, "splits", dict)
    fields = _fields(stored["compression"] != "none")
    tables = stored["layout"] == "image"
    rendered = data["version"] > 2
    manifest = Manifest(
        name=field(data, "name", str),
        licence=field(data, "licence", str),
        lineage=Lineage(choice(data, "lineage", tuple(Lineage))),
        classes=count(data["classes"], "classes"),
        seed=field(data, "seed", int),
        layout=choice(stored, "layout", get_args(Layout)),
        compression=choice(stored, "compression", get_args(Compression)),
        base=field(stored, "base", str),
        history=field(data, "history", dict),
        splits={name: _split_from_dict(split, fields, tables, rendered) for name, split in splits.items()},
    )
    check_manifest(manifest)
    if _manifest_to_dict(manifest) != data:
        raise ValueError("fields that contradict each other, or that this version does not write")
    return manifest


def _split_from_dict(data: dict[str, Any], fields: tuple[str, ...], tables: bool, rendered: bool) -> Split:
    counts = {name: _counts(data, name) for name in ("samples_per_class", "originals_per_class")}
    if rendered:
        # Version 3 is written under this name too: a rename would change the identity of the sets that exist.
        counts["rendered_per_class"] = _counts(data, "drawn_per_class")
    return Split(shards=tuple(_shard_from_dict(shard, fields, tables) for shard in data["shards"]), **counts)


def _shard_from_dict(data: dict[str, Any], fields: tuple[str, ...], tables: bool) -> Shard:
    blocks = (dict(zip(fields, map(count, row, fields), strict=True)) for row in data["blocks"])
    return Shard(
        name=data["name"],
        bytes=count(data["bytes"], "bytes"),
        sha256=data["sha256"],
        blocks=tuple(Block(**block) for block in blocks),
        table_sha256=field(data, "table_sha256", str) if tables else None,
    )


def _counts(data: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return tuple(count(number, name) for number in data[name])


def _read(source: Path | Readable) -> bytes:
    if isinstance(source, Path):
        return _read_local(source)
    try:
        return source.read(MANIFEST_NAME)
    except MissingShard as error:
        raise MissingShard(f"{source.location}: {_NO_MANIFEST}") from error


def _read_local(folder: Path) -> bytes:
    if not folder.exists():
        raise MissingShard(f"{folder}: no such folder; expected a shard set (made by `kkanji pack`)")
    path = folder / MANIFEST_NAME
    try:
        return read_bounded(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        made = next((what for name, what in OTHER_FOLDERS.items() if (folder / name).is_file()), _NO_MANIFEST)
        raise MissingShard(f"{folder}: {made.format(folder=folder)}") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


OTHER_FOLDERS = {
    "originals.json": "originals, no shard set; make one with `kkanji split {folder}` and `kkanji pack {folder}`",
    "state.json": "a model, no shard set; give the folder of a set, made by `kkanji pack`",
}
"""What else kkanji makes, by a file that is in it."""
_NO_MANIFEST = (
    f"no {MANIFEST_NAME}, so this is not a complete shard set; "
    "make it with `kkanji pack` (an interrupted run leaves none: run it again)"
)
