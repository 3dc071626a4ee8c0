"""Combined originals on disk, and which split each belongs to.

    images.npy      uint8 [N, 64, 64], ordered by (code point, id); open it with np.load(..., mmap_mode="r")
    originals.csv   id (16 hex digits), label, source, member: where each image came from, row by row
    dropped.csv     reason (blank, identical, conflict), label, source, member, id
    index.json      class map
    originals.json  name, licence, counts, checksums; written last: without it the folder is not whole
    split.csv       id, split: row by row, made by `python -m tools split`
    split.json      how, and the checksum of split.csv; written last

An original's id is the first 8 bytes of the sha256 of its pixels, so identical images can never get two ids.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kkanji.classes import ClassMap, parse_label, read_class_map
from shards import IMAGE_SIZE, InputError, write_file
from shards.permutation import mix

IMAGES_NAME, TABLE_NAME, FACTS_NAME = "images.npy", "originals.csv", "originals.json"
DROPPED_NAME = "dropped.csv"
SPLIT_TABLE_NAME, SPLIT_FACTS_NAME = "split.csv", "split.json"
TABLE_COLUMNS = ("id", "label", "source", "member")
SPLIT_COLUMNS = ("id", "split")
SPLITS = ("train", "val", "test")
"""Their order is their number."""
FORMAT, SPLIT_FORMAT, VERSION = "kkanji-originals", "kkanji-split", 1
CHUNK = 4096  # images moved at a time: 16 MiB


@dataclass(frozen=True, kw_only=True, slots=True)
class Originals:
    """What a folder of combined originals holds."""

    folder: Path
    images: NDArray[np.uint8]
    """[N, 64, 64], mapped from disk."""
    ids: NDArray[np.uint64]
    """[N]"""
    labels: NDArray[np.int32]
    """[N], class numbers."""
    classes: ClassMap
    facts: Mapping[str, Any]
    """`originals.json`."""

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images of each class among these rows."""
        return np.bincount(self.labels[rows], minlength=len(self.classes))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitTable:
    """Which split each original belongs to."""

    numbers: NDArray[np.int8]
    """[N], positions in SPLITS."""
    facts: Mapping[str, Any]
    """`split.json`."""

    def rows(self, split: str) -> NDArray[np.int64]:
        """The originals of one split, in their order. Raises InputError for a split there cannot be."""
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; expected one of {', '.join(SPLITS)}")
        return np.flatnonzero(self.numbers == SPLITS.index(split))


def original_id(digest: bytes) -> int:
    """The id, from the sha256 of the 4,096 pixels."""
    return int.from_bytes(digest[:8])


def order_keys(ids: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Random sort keys that depend on each id and the seed alone: what else is in the set changes nothing."""
    salt = mix(seed)
    return np.array([mix(salt ^ number) for number in ids.tolist()], np.uint64)


def check_seed(seed: int) -> None:
    """Refuse what compiled code cannot take as a seed."""
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed {seed}: expected 0 or more, below 2**63")


def read_originals(folder: Path) -> Originals:
    """Open and check a folder of originals (the pixels' checksum is left to `check_images`).

    Raises: InputError when it is not there, not whole or changed.
    """
    facts = _read_facts(folder / FACTS_NAME, FORMAT, "python -m tools combine")
    classes = read_class_map(folder)
    table = _read_table(folder / TABLE_NAME, TABLE_COLUMNS, facts["originals_sha256"])
    images = _map_images(folder / IMAGES_NAME, len(table))
    try:
        ids = np.array([int(row[0], 16) for row in table], np.uint64)
        labels = np.array([classes.ids[parse_label(row[1], TABLE_NAME)] for row in table], np.int32)
    except (ValueError, KeyError, OverflowError) as error:
        raise InputError(f"{folder / TABLE_NAME}: {error} is no id or no class of index.json; combine again") from error
    return Originals(folder=folder, images=images, ids=ids, labels=labels, classes=classes, facts=facts)


def check_images(originals: Originals) -> None:
    """Compare the pixels with their checksum. Raises InputError."""
    path = originals.folder / IMAGES_NAME
    found, expected = file_sha256(path), originals.facts["images_sha256"]
    if found != expected:
        raise InputError(f"{path}: sha256 {found}, expected {expected}: damaged or replaced; combine again")


def read_split(originals: Originals) -> SplitTable:
    """The split of these originals. Raises InputError when there is none or it is of others."""
    command = f"python -m tools split {originals.folder}"
    facts = _read_facts(originals.folder / SPLIT_FACTS_NAME, SPLIT_FORMAT, command)
    path = originals.folder / SPLIT_TABLE_NAME
    table = _read_table(path, SPLIT_COLUMNS, facts["split_sha256"])
    if [row[0] for row in table] != [f"{number:016x}" for number in originals.ids.tolist()]:
        raise InputError(f"{path}: not a split of these originals; run `{command} --overwrite`")
    strange = {row[1] for row in table} - set(SPLITS)
    if strange:
        raise InputError(f"{path}: found split {sorted(strange)[0]!r}, expected one of {', '.join(SPLITS)}")
    return SplitTable(numbers=np.array([SPLITS.index(row[1]) for row in table], np.int8), facts=facts)


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a CSV file with a line of column names; returns its sha256."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    data = text.getvalue().encode()
    write_file(path, data)
    return hashlib.sha256(data).hexdigest()


def write_facts(path: Path, data_format: str, facts: Mapping[str, object]) -> None:
    """Write the JSON file that completes a folder or a split."""
    content = {"format": data_format, "version": VERSION, **facts}
    write_file(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def file_sha256(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_facts(path: Path, data_format: str, command: str) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; it is written last by `{command}`: run that first") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); run `{command} --overwrite`") from error
    found = (facts.get("format"), facts.get("version")) if isinstance(facts, dict) else type(facts).__name__
    if found != (data_format, VERSION):
        raise InputError(f"{path}: found {found}, expected {(data_format, VERSION)}; run `{command} --overwrite`")
    return dict(facts)


def _read_table(path: Path, columns: tuple[str, ...], sha256: str) -> list[list[str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(f"{path}: sha256 {found}, expected {sha256}: changed since it was written; make it again")
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    if tuple(header) != columns:
        raise InputError(f"{path}: columns {header}, expected {list(columns)}; make it again")
    return rows


def _map_images(path: Path, count: int) -> NDArray[np.uint8]:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; combine again") from error
    expected = (count, IMAGE_SIZE, IMAGE_SIZE)
    if images.dtype != np.uint8 or images.shape != expected:
        raise InputError(f"{path}: {images.dtype} {images.shape}, expected uint8 {expected}; combine again")
    return np.asarray(images)
