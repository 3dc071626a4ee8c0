"""JSON files read with care: regular files, bounded in size, an object on top, fields of the expected types.

`load_json` and what works on its result raise ValueError, which says what was found and what was expected; the caller
adds the file and the remedy. `read_json` does that itself.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from shards.errors import InputError
from shards.regular_files import reading

MOST_BYTES = 64 << 20
"""Most bytes of a JSON file or a table. A `dataset.json` of 100 million images in blocks of 1,250 has about 4 MB."""
MOST_COUNT = 1 << 47
"""Largest count: no process can address more bytes."""
_SURROGATE = "\\ud"  # as JSON escapes the halves of a pair, and some Korean letters
_SHOWN = 60  # characters of a wrong value

Value = TypeVar("Value")


class NotJson(ValueError):
    """A text that is not JSON, for example because it was cut short."""


def read_json(path: Path, *, remedy: str = "") -> dict[str, Any]:
    """The object in a JSON file. remedy: what the message tells the user to do.

    Raises: InputError if the file is missing, larger than MOST_BYTES, not JSON, or no object.
    """
    try:
        return load_json(path)
    except OSError as error:
        problem = str(error.strerror)
    except ValueError as error:
        problem = str(error)
    raise InputError(f"{path}: {problem}{remedy and f'; {remedy}'}")


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError, or ValueError with what is wrong."""
    return parse_json(read_bounded(path))


def read_bounded(path: Path, most: int = MOST_BYTES) -> bytes:
    """A file's content. Raises OSError, also for a pipe or a device, or ValueError, before reading, if it is too large.

    A device states no size, and a file may grow meanwhile, so no more than its size is read either.
    """
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{size:,} bytes, expected at most {most:,}")
        return file.read(size)


def parse_json(text: bytes | str) -> dict[str, Any]:
    """The object in a JSON text, UTF-8. Raises NotJson, or ValueError for any other value.

    Half a surrogate pair, which JSON can escape, is refused: no file and no terminal can hold it.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text)
        if _SURROGATE in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON ({str(error)[:_SHOWN]})") from error
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}, expected a JSON object")
    return value


def field(record: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    """A field that must have this very type: True is no int. Raises ValueError."""
    if name not in record:
        raise ValueError(f"no field {name!r}")
    value = record[name]
    if type(value) is not kind:
        raise ValueError(f"{name} is {_short(value)}, expected {kind.__name__}")
    return value


def number(record: Mapping[str, Any], name: str) -> float:
    """A field with a number, whole or not. Raises ValueError."""
    if name not in record:
        raise ValueError(f"no field {name!r}")
    value = record[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {_short(value)}, expected a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is {_short(value)}, too large for a number") from error


def count(value: object, name: str) -> int:
    """A whole number from 0 on, below 2**47. name: of its field, for the message. Raises ValueError."""
    if type(value) is not int or not 0 <= value <= MOST_COUNT:
        raise ValueError(f"{name} is {_short(value)}, expected a whole number from 0 on")
    return value


def choice(record: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> Any:
    """A field with one of these values. Raises ValueError."""
    if name not in record:
        raise ValueError(f"no field {name!r}")
    value = record[name]
    if value not in choices:
        raise ValueError(f"{name} {_short(value)}, expected {' or '.join(repr(str(each)) for each in choices)}")
    return value


def _short(value: object) -> str:
    return repr(value)[:_SHOWN]
