"""Combined originals on disk, and which split each belongs to.

    images.npy      uint8 [N, 64, 64], ordered by (code point, id); open it with np.load(..., mmap_mode="r")
    originals.csv   row by row: id (16 hex digits), label, source, member (where the image came from), sha256 of the
                    pixels, official (train or test where the publisher divided its data, else nothing), lineage
    dropped.csv     reason (blank, identical, conflict), label, source, member, id, official
    index.json      class map: every class of the sources, even if no image of it is left
    originals.json  name, licence, counts, checksums; written last: without it the folder is incomplete
    split.csv       id, split: row by row, made by `kkanji split`
    split.json      how the split was made, and the checksum of split.csv; written last

An original's id is the first 8 bytes of the sha256 of its pixels, so identical images can never get two ids.

The column `lineage` holds the origin of each image: `known` as published, `unknown` if another program made it from an
original that it does not name (siblings of one original may then be in different splits, and nothing can prove
otherwise), `font` if it is rendered from a font, which is for training only.

Version 1, which is still read, lacks sha256, official and lineage: its images have no official split and known lineage.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kkanji.classes import ClassMap, parse_label, read_class_map
from shards import IMAGE_SIZE, InputError, write_file
from shards.array_reading import map_array
from shards.checksums import file_digest
from shards.format.manifest import CLASSES_NAME, Lineage
from shards.json_reading import load_json
from shards.order.permutation import mix
from shards.output.files import sync_file
from tools.ingest.tables import read_csv, read_facts, write_csv, write_facts

IMAGES_NAME, TABLE_NAME, FACTS_NAME = "images.npy", "originals.csv", "originals.json"
DROPPED_NAME = "dropped.csv"
DROPPED_COLUMNS = ("reason", "label", "source", "member", "id", "official")
SPLIT_TABLE_NAME, SPLIT_FACTS_NAME = "split.csv", "split.json"
TABLE_COLUMNS = ("id", "label", "source", "member", "sha256", "official", "lineage")
TABLE_COLUMNS_1 = TABLE_COLUMNS[:4]
SPLIT_COLUMNS = ("id", "split")
SPLITS = ("train", "val", "test")
"""Their order is their number."""
NO_SPLIT = -1
"""Number of an original without an official split, or that a protocol excludes; `none` in split.csv."""
FORMAT, VERSION, VERSIONS = "kkanji-originals", 2, (1, 2)
SPLIT_FORMAT, SPLIT_VERSION = "kkanji-split", 1
FACTS = {
    **dict.fromkeys(("name", "licence", "images_sha256", "originals_sha256"), str),
    **{"counts": dict, "sources": list},
}
SPLIT_FACTS = dict.fromkeys(("rule", "protocol", "split_sha256"), str)
CHUNK = 4096  # images moved at a time: 16 MiB
LICENCE = (
    "`KMNIST Dataset` (created by CODH), adapted from `Kuzushiji Dataset` (created by NIJL and others), "
    "doi:10.20676/00000341, CC BY-SA 4.0"
)


class Origin(StrEnum):
    """Where an image comes from. Column `lineage` of originals.csv, from before fonts were among the values."""

    KNOWN = "known"
    """Published as it is."""
    UNKNOWN = "unknown"
    """Made by another program from an original that is not on record."""
    FONT = "font"
    """Rendered from a font."""

    @property
    def number(self) -> int:
        """Position in the order of this list."""
        return tuple(Origin).index(self)


class Row(NamedTuple):
    """A line of originals.csv."""

    id: str
    """Id, 16 hexadecimal digits."""
    label: str
    """Class, such as U+4E00."""
    source: str
    """Base name of the source."""
    member: str
    """Place in the source: a path, or an array's name and a row."""
    sha256: str
    """Checksum of the pixels, in hexadecimal."""
    official: str
    """Official split, train or test; empty without one."""
    lineage: str
    """One of Origin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Originals:
    """A folder of combined originals."""

    folder: Path
    images: NDArray[np.uint8]
    """Images, [N, 64, 64], mapped from disk."""
    ids: NDArray[np.uint64]
    """Ids, [N]."""
    labels: NDArray[np.int32]
    """Class numbers, [N]."""
    official: NDArray[np.int8]
    """Official split of each image as its position in SPLITS, or NO_SPLIT, [N]."""
    origins: NDArray[np.int8]
    """Number of each image's Origin, [N]."""
    sources: NDArray[np.int32]
    """Source of each image as its position in source_names, [N]."""
    source_names: tuple[str, ...]
    classes: ClassMap
    facts: Mapping[str, Any]
    """Contents of originals.json."""

    @property
    def lineage(self) -> Lineage:
        """Lineage of a set made from all originals: unknown if the origin of any image is."""
        return Lineage.UNKNOWN if (self.origins == Origin.UNKNOWN.number).any() else Lineage.KNOWN

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of each class among these rows."""
        return np.bincount(self.labels[rows], minlength=len(self.classes))

    def rendered(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of each class among these rows that are rendered from fonts."""
        return self.counts(rows[self.origins[rows] == Origin.FONT.number])


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitTable:
    """Which split each original belongs to."""

    numbers: NDArray[np.int8]
    """Positions in SPLITS, or NO_SPLIT for an excluded original, [N]."""
    facts: Mapping[str, Any]
    """Contents of split.json."""

    def rows(self, split: str) -> NDArray[np.int64]:
        """The rows of one split, in order. Raises InputError for an unknown split."""
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
        return np.flatnonzero(self.numbers == SPLITS.index(split))


def original_id(digest: bytes) -> int:
    """The id of an image from the sha256 of its 4,096 pixels."""
    return int.from_bytes(digest[:8])


def order_keys(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Random sort keys, [N]. Each depends on its id and the seed alone, not on the other originals."""
    salt = mix(seed)
    return np.array([mix(salt ^ number) for number in ids.tolist()], np.uint64)


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that compiled code cannot take."""
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed {seed}: expected 0 or more, below 2**63")


def read_originals(folder: Path) -> Originals:
    """Open and check a folder of originals, except for the checksum of the pixels, which `check_images` compares.

    Raises InputError if the folder is missing, incomplete or changed.
    """
    facts = read_facts(folder / FACTS_NAME, FORMAT, VERSIONS, "kkanji combine", FACTS, made_anew(folder))
    _check_facts(folder, facts)
    classes = read_class_map(folder)
    columns = TABLE_COLUMNS if facts["version"] > 1 else TABLE_COLUMNS_1
    table = read_csv(folder / TABLE_NAME, columns, facts["originals_sha256"], made_anew(folder))
    images = _map_images(folder / IMAGES_NAME, len(table))
    added = () if facts["version"] > 1 else ("", "", Origin.KNOWN)
    rows = [Row._make((*row, *added)) for row in table]
    origins = tuple(Origin)
    source_names = tuple(sorted({row.source for row in rows}))
    source_numbers = {name: number for number, name in enumerate(source_names)}
    try:
        return Originals(
            folder=folder,
            images=images,
            ids=_column(rows, np.uint64, lambda row: int(row.id, 16)),
            labels=_column(rows, np.int32, lambda row: classes.ids[parse_label(row.label, TABLE_NAME)]),
            official=_column(rows, np.int8, lambda row: split_number(row.official)),
            origins=_column(rows, np.int8, lambda row: _position(row.lineage, origins)),
            sources=_column(rows, np.int32, lambda row: source_numbers[row.source]),
            source_names=source_names,
            classes=classes,
            facts=facts,
        )
    except (ValueError, KeyError, OverflowError) as error:
        found = f"{error} is no id, no split, no lineage, or no class of index.json"
        raise InputError(f"{folder / TABLE_NAME}: {found}; {made_anew(folder)}") from error


def _check_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise InputError unless counts are whole numbers, and each source has a name and perhaps a checksum."""
    counts = (
        all(type(count) is int for count in facts["counts"].values()) and {"read", "kept"} <= facts["counts"].keys()
    )
    sources = all(
        isinstance(source, dict) and isinstance(source.get("name"), str) and isinstance(source.get("sha256") or "", str)
        for source in facts["sources"]
    )
    lost = facts.get("classes_without_images", [])
    if not (counts and sources and isinstance(lost, list) and all(isinstance(label, str) for label in lost)):
        found = "counts, sources or classes_without_images are not as `kkanji combine` writes them"
        raise InputError(f"{folder / FACTS_NAME}: {found}; {made_anew(folder)}")


def write_originals(
    folder: Path,
    rows: Sequence[Row],
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    *,
    classes: ClassMap,
    dropped: str,
    facts: Mapping[str, object],
    sources: Sequence[Mapping[str, str | None]],
) -> None:
    """Write a folder of originals in their order, by code point and id, with originals.json last.

    rows: the table in any order, each id once. read: the images [n, 64, 64] of the rows with these numbers. dropped:
    text of dropped.csv. facts: for originals.json, without checksums. sources: name and sha256 of each file.
    """
    order = np.array(sorted(range(len(rows)), key=lambda number: _place(rows[number])), np.int64)
    _write_images(folder / IMAGES_NAME, order, read)
    table_sha256 = write_csv(folder / TABLE_NAME, TABLE_COLUMNS, (rows[number] for number in order))
    write_file(folder / DROPPED_NAME, dropped)
    dropped_sha256 = hashlib.sha256(dropped.encode()).hexdigest()
    write_file(folder / CLASSES_NAME, classes.to_json())
    checksums = {"images_sha256": file_digest(folder / IMAGES_NAME), "originals_sha256": table_sha256}
    checksums["dropped_sha256"] = dropped_sha256
    write_facts(folder / FACTS_NAME, FORMAT, VERSION, {**facts, **checksums, "sources": sources})


def read_rows(originals: Originals) -> list[Row]:
    """The lines of originals.csv as version 2 has them. Reads the pixels of version 1, which lacks their checksums."""
    path = originals.folder / TABLE_NAME
    columns = TABLE_COLUMNS if originals.facts["version"] > 1 else TABLE_COLUMNS_1
    table = read_csv(path, columns, originals.facts["originals_sha256"], made_anew(originals.folder))
    if columns is TABLE_COLUMNS:
        return [Row._make(row) for row in table]
    digests = (hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in originals.images)
    return [Row._make((*row, digest, "", Origin.KNOWN)) for row, digest in zip(table, digests, strict=True)]


def official_tests(originals: Originals) -> dict[str, NDArray[np.int64]]:
    """Rows of each publisher's own test set, by a name of its source such as `kmnist`.

    Of identical images one is kept, so an image of two of these sets is in both of them here.
    """
    test = SPLITS.index("test")
    found: dict[str, set[int]] = defaultdict(set)
    for row in np.flatnonzero(originals.official == test).tolist():
        found[originals.source_names[originals.sources[row]]].add(row)
    row_of = {f"{number:016x}": row for row, number in enumerate(originals.ids.tolist())}
    for source, number in _identical_tests(originals):
        if number in row_of:
            found[source].add(row_of[number])
    return {_set_name(source): np.array(sorted(rows), np.int64) for source, rows in sorted(found.items())}


def _identical_tests(originals: Originals) -> Iterator[tuple[str, str]]:
    """Source and id of the official test images that were dropped for an identical one."""
    sha256 = originals.facts.get("dropped_sha256")
    if sha256 is None:  # combined by an older release
        return
    for reason, _label, source, _member, number, official in read_csv(
        originals.folder / DROPPED_NAME, DROPPED_COLUMNS, sha256, made_anew(originals.folder)
    ):
        if (reason, official) == ("identical", "test"):
            yield source, number


def _set_name(source: str) -> str:
    """`kmnist-test-imgs.npz` -> `kmnist`: may be part of a split's name."""
    return re.sub(r"[^a-z0-9]+", "-", source.lower().partition("-test")[0]).strip("-")


def made_anew(folder: Path) -> str:
    """What to do about damaged originals: --overwrite replaces only what nobody changed."""
    return f"move {folder} elsewhere and combine again"


def check_images(originals: Originals) -> None:
    """Compare the pixels with their checksum. Raises InputError if they differ."""
    path = originals.folder / IMAGES_NAME
    found, expected = file_digest(path), originals.facts["images_sha256"]
    if found != expected:
        raise InputError(
            f"{path}: sha256 {found}, expected {expected}: damaged or replaced; {made_anew(originals.folder)}"
        )


def read_split(originals: Originals) -> SplitTable:
    """The split of these originals. Raises InputError if there is none, or if it is of other originals."""
    command = f"kkanji split {originals.folder}"
    remedy = f"run `{command} --overwrite`"
    facts = read_facts(
        originals.folder / SPLIT_FACTS_NAME, SPLIT_FORMAT, (SPLIT_VERSION,), command, SPLIT_FACTS, remedy
    )
    path = originals.folder / SPLIT_TABLE_NAME
    table = read_csv(path, SPLIT_COLUMNS, facts["split_sha256"], remedy)
    if [row[0] for row in table] != [f"{number:016x}" for number in originals.ids.tolist()]:
        raise InputError(f"{path}: not a split of these originals; {remedy}")
    return SplitTable(numbers=split_numbers([row[1] for row in table], path), facts=facts)


def is_split(folder: Path) -> bool:
    """Whether the folder holds an unchanged split."""
    try:
        facts = load_json(folder / SPLIT_FACTS_NAME)
        return bool(facts["split_sha256"] == file_digest(folder / SPLIT_TABLE_NAME))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def split_numbers(names: Sequence[str], path: Path) -> NDArray[np.int8]:
    """The column `split` of the file at `path` as numbers [N]. Raises InputError."""
    strange = set(names) - {*SPLITS, "none"}
    if strange:
        raise InputError(f"{path}: found split {sorted(strange)[0]!r}, expected one of {', '.join(SPLITS)}, none")
    return np.array([split_number(name) for name in names], np.int8)


def split_number(name: str) -> int:
    """Position in SPLITS; NO_SPLIT for an empty name or `none`. Raises ValueError for any other name."""
    return _position(name, SPLITS) if name not in ("", "none") else NO_SPLIT


def split_name(number: int) -> str:
    """`train`, `val`, `test` or `none`."""
    return "none" if number == NO_SPLIT else SPLITS[number]


def _place(row: Row) -> tuple[int, str]:
    """Sort key: code point, then id."""
    return parse_label(row.label, TABLE_NAME), row.id


def _write_images(path: Path, order: NDArray[np.int64], read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]) -> None:
    """Write images.npy. Memory is that of one chunk, whatever the number of images."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(order), IMAGE_SIZE, IMAGE_SIZE)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(order), CHUNK):
            file.write(read(order[start : start + CHUNK]).tobytes())
        sync_file(file.fileno())


def _position(name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise ValueError(repr(name))
    return names.index(name)


def _column(rows: Sequence[Row], dtype: type[np.generic], value: Callable[[Row], int]) -> NDArray[Any]:
    return np.fromiter((value(row) for row in rows), dtype, len(rows))


def _map_images(path: Path, count: int) -> NDArray[np.uint8]:
    try:
        images = map_array(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; {made_anew(path.parent)}") from error
    expected = (count, IMAGE_SIZE, IMAGE_SIZE)
    if images.dtype != np.uint8 or images.shape != expected:
        raise InputError(f"{path}: {images.dtype} {images.shape}, expected uint8 {expected}; {made_anew(path.parent)}")
    return np.asarray(images)
