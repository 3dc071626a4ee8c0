"""CSV tables and the JSON files of facts beside them: written at once, checked before anything in them is used."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shards import InputError, write_file
from shards.format.manifest import MANIFEST_NAME
from shards.json_reading import field, load_json, read_bounded

SUSPECT_COLUMNS = ("id", "label", "predicted", "probability", "label_probability")
"""Of a list: an original's id, its label, the predicted class, and the probabilities of that class and of the label."""
MOST_CSV_BYTES = 8 << 30  # a row of originals.csv takes some 150 bytes: 50 million images


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a CSV file with a line of column names. Returns its sha256."""
    data = csv_text(columns, rows).encode()
    write_file(path, data)
    return hashlib.sha256(data).hexdigest()


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV file as text: a line of column names, then the rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path, columns: tuple[str, ...], sha256: str, remedy: str) -> list[list[str]]:
    """The rows of a CSV file with this checksum. Raises InputError if it is missing or was changed.

    remedy: how it is made again.
    """
    data = read_table(path, remedy)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(f"{path}: sha256 {found}, expected {sha256}: changed since it was written; {remedy}")
    return parse_csv(data, columns, path, remedy)


def read_table(path: Path, remedy: str) -> bytes:
    """The content of a CSV file. Raises InputError that names `path` and the remedy."""
    try:
        return read_bounded(path, MOST_CSV_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}; {remedy}") from error


def parse_csv(data: bytes, columns: tuple[str, ...], path: Path, remedy: str) -> list[list[str]]:
    """The rows of a CSV file with a line of these column names. Raises InputError that names `path` and the remedy."""
    try:
        lines = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no CSV text ({str(error)[:80]}); expected columns {', '.join(columns)}") from error
    header, rows = lines[:1], lines[1:]
    if header != [list(columns)]:
        found = str(header[0][:10])[:200] if header else "nothing"
        raise InputError(f"{path}: columns {found}, expected {list(columns)}; {remedy}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(columns):
            raise InputError(f"{path}: {len(row)} values in line {number}, expected {len(columns)}; {remedy}")
    return rows


def write_facts(path: Path, data_format: str, version: int, facts: Mapping[str, object]) -> None:
    """Write the JSON file that completes a folder or a split."""
    content = {"format": data_format, "version": version, **facts}
    write_file(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_facts(
    path: Path, data_format: str, versions: tuple[int, ...], command: str, kinds: Mapping[str, type], remedy: str
) -> dict[str, Any]:
    """Facts in one of these versions of a format. Raises InputError that names the command which writes them.

    kinds: the types of the facts that are needed. remedy: how they are made again if they are damaged.
    """
    try:
        facts = load_json(path)
    except OSError as error:
        if (path.parent / MANIFEST_NAME).is_file():
            raise InputError(
                f"{path.parent}: a shard set; expected what `{command}` makes, from which sets are packed"
            ) from error
        raise InputError(f"{path}: {error.strerror}; it is written last by `{command}`: run that first") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; {remedy}") from error
    found = (facts.get("format"), facts.get("version"))
    if found not in [(data_format, version) for version in versions]:
        expected = (data_format, versions[-1])
        raise InputError(f"{path}: found {str(found)[:80]}, expected {expected}; {remedy}")
    try:
        for name, kind in kinds.items():
            field(facts, name, kind)
    except ValueError as error:
        raise InputError(f"{path}: {error}; {remedy}") from error
    return facts
