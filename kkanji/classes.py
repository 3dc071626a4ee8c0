"""Classes are code points. A label is never normalised: six of the data's compatibility ideographs would become another
existing class under Unicode NFC (U+FA1D, FA38, FA45, FA4A, FA55, FA5C)."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shards.errors import InputError
from shards.format.manifest import CLASSES_NAME
from shards.json_reading import parse_json

LABEL = re.compile(r"U\+([0-9A-F]{4,5})")
_ENTRY = re.compile(r".+ \(U\+([0-9A-F]{4,5})\)", re.DOTALL)


@dataclass(frozen=True)
class ClassMap:
    """Class number <-> code point; numbers follow the order given."""

    code_points: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.code_points)) != len(self.code_points) or not self.code_points:
            raise InputError(f"class map of {len(self.code_points)} code points: empty, or one stands twice")

    @classmethod
    def of(cls, code_points: Iterable[int]) -> "ClassMap":
        """The map of these code points, numbered in their order in Unicode."""
        return cls(tuple(sorted(set(code_points))))

    def __len__(self) -> int:
        return len(self.code_points)

    @cached_property
    def ids(self) -> dict[int, int]:
        """Code point -> class number."""
        return {code_point: number for number, code_point in enumerate(self.code_points)}

    @property
    def characters(self) -> tuple[str, ...]:
        """The characters, by class number."""
        return tuple(chr(code_point) for code_point in self.code_points)

    @property
    def labels(self) -> tuple[str, ...]:
        """`U+4E00`, by class number."""
        return tuple(label(code_point) for code_point in self.code_points)

    def with_others(self, others: "ClassMap") -> "ClassMap":
        """These classes with their numbers, and after them those that only the others have."""
        return ClassMap(self.code_points + tuple(point for point in others.code_points if point not in self.ids))

    def to_json(self) -> str:
        """`index.json`: {"codepoint_to_id": {"一 (U+4E00)": 0, ...}}, the form of the legacy project."""
        entries = {f"{chr(point)} ({label(point)})": number for number, point in enumerate(self.code_points)}
        return json.dumps({"codepoint_to_id": entries}, ensure_ascii=False, indent=1) + "\n"

    def identity(self) -> str:
        """sha256 of `index.json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def label(code_point: int) -> str:
    """`U+4E00`"""
    return f"U+{code_point:04X}"


def parse_label(text: str, where: str) -> int:
    """The code point of a folder name such as `U+4E00`. Raises InputError naming `where`."""
    match = LABEL.fullmatch(text)
    if match is None or int(match[1], 16) > 0x10FFFF:
        raise InputError(f"{where}: found {text!r}, expected U+ and four or five hexadecimal capitals, as in U+4E00")
    return int(match[1], 16)


def parse_class_map(text: str, where: str) -> ClassMap:
    """Read `index.json`. Raises InputError when it is not a class map numbered 0..n-1."""
    try:
        entries = parse_json(text)["codepoint_to_id"]
        by_id = {int(number): _entry(name) for name, number in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where}: not a class map ({error}); expected {{'codepoint_to_id': {{'一 (U+4E00)': 0}}}}"
        ) from error
    if sorted(by_id) != list(range(len(entries))):
        raise InputError(f"{where}: class numbers are not 0..{len(entries) - 1}, each once")
    return ClassMap(tuple(by_id[number] for number in range(len(by_id))))


def read_class_map(folder: Path) -> ClassMap:
    """The class map of a shard set."""
    path = folder / CLASSES_NAME
    try:
        return parse_class_map(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a shard set has its class map there") from error


def _entry(name: str) -> int:
    match = _ENTRY.fullmatch(name)
    if match is None:
        raise ValueError(f"entry {name!r}")
    return int(match[1], 16)
