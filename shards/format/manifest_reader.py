"""A manifest read and checked, from a folder or a store."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

from shards.errors import CorruptShard, MissingShard, StorageError
from shards.format.layout import IMAGE_SIZE, block_bytes
from shards.format.manifest import (
    FORMAT,
    LONG,
    MANIFEST_NAME,
    SHORT,
    VERSIONS,
    Compression,
    Layout,
    Lineage,
    Manifest,
    Split,
    has_plain_blocks,
    manifest_to_dict,
    part_name,
    row_fields,
    table_to_dict,
)
from shards.format.manifest_rules import SPLIT_NAME, check_manifest
from shards.format.shard_table import Block, BlockColumns, Counts, Shard, ShardTable, starts_within
from shards.json_reading import MOST_COUNT, choice, count, field, parse_json, read_bounded

MOST_PARTS = 1024  # of a split: about 150 million shards


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
        return parse_manifest(_read(source), lambda name: _read_part(source, name))
    except (ValueError, KeyError, TypeError) as error:
        found = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptShard(f"{where}: {found}; make the set again with `kkanji pack`") from error


def parse_manifest(text: bytes | str, read_part: Callable[[str], bytes] | None = None) -> Manifest:
    """The manifest in a JSON text. Raises ValueError, KeyError or TypeError with what is wrong.

    read_part: gives the files that version 5 has beside it, by name.
    """
    data = parse_json(text)
    if data.get("format") != FORMAT:
        raise ValueError(f"not a shard set: expected an object with format {FORMAT!r}")
    if data["version"] not in VERSIONS:
        raise ValueError(f"format version {data['version']}, but this kkanji reads versions {VERSIONS}")
    if data["image_shape"] != [IMAGE_SIZE, IMAGE_SIZE]:
        raise ValueError(f"images of shape {data['image_shape']}, expected {[IMAGE_SIZE, IMAGE_SIZE]}")
    stored = data if data["version"] > 1 else {"layout": "packed", "compression": "none", "base": ""}
    layout = choice(stored, "layout", get_args(Layout))
    compression = choice(stored, "compression", get_args(Compression))
    splits = field(data, "splits", dict)
    manifest = Manifest(
        name=field(data, "name", str),
        licence=field(data, "licence", str),
        lineage=Lineage(choice(data, "lineage", tuple(Lineage))),
        classes=count(data["classes"], "classes"),
        seed=field(data, "seed", int),
        layout=layout,
        compression=compression,
        base=field(stored, "base", str),
        history=field(data, "history", dict),
        splits={
            name: _split(name, split, data["version"], Form(layout, compression), read_part)
            for name, split in splits.items()
        },
    )
    check_manifest(manifest)
    if manifest_to_dict(manifest) != data:
        raise ValueError("fields that contradict each other, or that this version does not write")
    return manifest


class Form(NamedTuple):
    """How shards are stored: the fields of Manifest that say so."""

    layout: Layout
    compression: Compression


def _split(
    name: str, data: dict[str, Any], version: int, form: Form, read_part: Callable[[str], bytes] | None
) -> Split:
    shards: Sequence[Shard]
    parts: tuple[str, ...] = ()
    if version > 4:
        parts = _texts(field(data, "shards", dict), "parts")
        shards = _parts(name, parts, form, read_part)
    elif version > 3:
        shards = _table(field(data, "shards", dict), *form)
    else:
        fields = row_fields(form.compression != "none")
        shards = [_shard(shard, fields, form.layout == "image") for shard in data["shards"]]
    rendered = {1: None, 2: None, 3: "drawn_per_class"}.get(version, "rendered_per_class")
    return Split(
        shards=shards,
        samples_per_class=_counts(data, "samples_per_class"),
        originals_per_class=_counts(data, "originals_per_class"),
        rendered_per_class=_counts(data, rendered) if rendered else (),
        columns=field(data, "columns", dict) if version > 3 else {},
        parts=parts,
    )


def _parts(split: str, checksums: Sequence[str], form: Form, read_part: Callable[[str], bytes] | None) -> ShardTable:
    """The shards of version 5. A part is checked by itself: the manifest's comparison has only its checksum."""
    if not SPLIT_NAME.fullmatch(split) or not 1 <= len(checksums) <= MOST_PARTS or read_part is None:
        raise ValueError(f"{len(checksums)} parts of split {split[:60]!r}, expected 1 to {MOST_PARTS} files")
    tables = []
    for number, sha256 in enumerate(checksums):
        content = read_part(part_name(split, number))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{part_name(split, number)} is not the file that it was made with")
        data = parse_json(content)
        table = _table(data, *form)
        if table_to_dict(form, table) != data:
            raise ValueError(f"{part_name(split, number)} has fields that this version does not write")
        tables.append(table)
    return ShardTable.joined(tables)


def _shard(data: dict[str, Any], fields: tuple[str, ...], tables: bool) -> Shard:
    """A shard of version 3 or lower."""
    blocks = (dict(zip(fields, map(count, row, fields), strict=True)) for row in data["blocks"])
    return Shard(
        name=data["name"],
        bytes=count(data["bytes"], "bytes"),
        sha256=data["sha256"],
        blocks=tuple(Block(**block) for block in blocks),
        table_sha256=field(data, "table_sha256", str) if tables else None,
    )


def _table(data: dict[str, Any], layout: Layout, compression: Compression) -> ShardTable:
    """The shards of version 4. What the columns say is checked by `check_manifest`, except that they fit together."""
    names, sha256 = _texts(data, "name"), _texts(data, "sha256")
    size, per_shard = _numbers(data, "bytes"), _numbers(data, "blocks")
    tables = _texts(data, "table_sha256") if layout == "image" else (None,) * len(names)
    if len({len(names), len(sha256), len(size), len(per_shard), len(tables)}) > 1:
        raise ValueError(f"{len(names)} names of shards, but another number of their sizes, sha256 or blocks")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_shard)])
    blocks = _blocks(data, starts, has_plain_blocks(layout, compression), compression != "none")
    return ShardTable(names=names, bytes=size, sha256=sha256, table_sha256=tables, block_starts=starts, blocks=blocks)


def _blocks(data: dict[str, Any], starts: Counts, plain: bool, compressed: bool) -> BlockColumns:
    samples = _digits(data, "block_samples", SHORT)
    size = block_bytes(samples) if plain else _digits(data, "block_bytes", LONG)
    crc32 = _digits(data, "block_crc32", SHORT)
    plain_crc32 = _digits(data, "block_plain_crc32", SHORT) if compressed and len(samples) else None
    lengths = {len(column) for column in (samples, size, crc32, plain_crc32) if column is not None}
    if lengths != {starts[-1]}:
        raise ValueError(f"{starts[-1]} blocks, but columns of {' and '.join(map(str, sorted(lengths)))}")
    return BlockColumns(
        offset=starts_within(starts, size), bytes=size, samples=samples, crc32=crc32, plain_crc32=plain_crc32
    )


def _texts(data: dict[str, Any], name: str) -> tuple[str, ...]:
    values = field(data, name, list)
    if not set(map(type, values)) <= {str}:
        raise ValueError(f"{name} has a value that is no text")
    return tuple(values)


def _numbers(data: dict[str, Any], name: str) -> Counts:
    """A list of whole numbers, checked as `count` does, but by columns: there may be millions."""
    values = field(data, name, list)
    if set(map(type, values)) - {int} or (values and not 0 <= min(values) <= max(values) <= MOST_COUNT):
        return np.array([count(value, name) for value in values], np.int64)  # raises for the first wrong one
    return np.array(values, np.int64)


def _digits(data: dict[str, Any], name: str, kind: np.dtype[np.unsignedinteger[Any]]) -> Counts:
    """Numbers in hexadecimal digits without a gap, as many each as a type has. Those beyond 2**63 become negative."""
    return np.frombuffer(bytes.fromhex(field(data, name, str)), kind).astype(np.int64)


def _counts(data: Mapping[str, Any], name: str) -> tuple[int, ...]:
    return tuple(count(number, name) for number in data[name])


def _read(source: Path | Readable) -> bytes:
    if isinstance(source, Path):
        return _read_local(source)
    try:
        return source.read(MANIFEST_NAME)
    except MissingShard as error:
        raise MissingShard(f"{source.location}: {_NO_MANIFEST}") from error


def _read_part(source: Path | Readable, name: str) -> bytes:
    if not isinstance(source, Path):
        return source.read(name)
    try:
        return read_bounded(source / name)
    except FileNotFoundError:
        raise MissingShard(f"{source / name}: named in {MANIFEST_NAME} but not there; copy the set again") from None
    except OSError as error:
        raise StorageError(f"{source / name}: {error.strerror}") from error


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
    "split.json": "originals, no shard set; make one with `kkanji pack {folder}`",
    "originals.json": "originals, no shard set; make one with `kkanji split {folder}` and `kkanji pack {folder}`",
    "state.json": "a model, no shard set; give the folder of a set, made by `kkanji pack`",
}
"""What else kkanji makes, by a file that is in it; the first that is there counts."""
_NO_MANIFEST = (
    f"no {MANIFEST_NAME}, so this is not a complete shard set; "
    "make it with `kkanji pack` (an interrupted run leaves none: run it again)"
)
