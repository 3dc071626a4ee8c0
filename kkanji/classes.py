"""Classes: every class is a Unicode code point, numbered by a class map (`index.json`).

A class that is no single character, such as a ligature, has a code point for private use (U+E000 to U+F8FF), and its
name stands in the class map in place of the character.

Labels are never normalised. Under Unicode NFC six compatibility ideographs of the data (U+FA1D, U+FA38, U+FA45, U+FA4A,
U+FA55, U+FA5C) would turn into other classes that exist too.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from shards.errors import InputError
from shards.format.manifest import CLASSES_NAME
from shards.json_reading import parse_json, read_bounded

LABEL = re.compile(r"U\+([0-9A-F]{4,5})")
UNWRITABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogate, separators of lines and paragraphs
PRIVATE_USE = range(0xE000, 0xF900)  # Unicode, section 23.5: no standard will ever give them a meaning
LONGEST_NAME = 80  # characters: it stands beside each prediction
_ENTRY = re.compile(r"(.+) \(U\+([0-9A-F]{4,5})\)", re.DOTALL)


@dataclass(frozen=True)
class ClassMap:
    """Class number <-> code point."""

    code_points: tuple[int, ...]
    """Code points of the classes 0, 1, 2, ..."""
    names: tuple[tuple[int, str], ...] = ()
    """Code points for private use among them, and the names of their classes."""

    def __post_init__(self) -> None:
        if len(set(self.code_points)) != len(self.code_points) or not self.code_points:
            raise InputError(f"class map of {len(self.code_points)} code points: empty, or a code point occurs twice")

    @classmethod
    def of(cls, code_points: Iterable[int], names: Mapping[int, str] = MappingProxyType({})) -> "ClassMap":
        """The map of these code points, numbered in their order in Unicode. names: of classes for private use."""
        points = tuple(sorted(set(code_points)))
        return cls(points, tuple((point, names[point]) for point in points if point in names))

    def __len__(self) -> int:
        return len(self.code_points)

    @cached_property
    def ids(self) -> dict[int, int]:
        """Code point -> class number."""
        return {code_point: number for number, code_point in enumerate(self.code_points)}

    @property
    def characters(self) -> tuple[str, ...]:
        """The characters, or the names of classes that have one, in the order of class numbers."""
        names = dict(self.names)
        return tuple(names.get(code_point, chr(code_point)) for code_point in self.code_points)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, such as `U+4E00`, in the order of class numbers."""
        return tuple(label(code_point) for code_point in self.code_points)

    def with_others(self, others: "ClassMap") -> "ClassMap":
        """These classes with their numbers, followed by the classes that only `others` has."""
        added = tuple(point for point in others.code_points if point not in self.ids)
        return ClassMap(self.code_points + added, tuple(sorted({**dict(others.names), **dict(self.names)}.items())))

    def to_json(self) -> str:
        """`index.json`: {"codepoint_to_id": {"一 (U+4E00)": 0, ...}}, the form of the legacy project."""
        pairs = zip(self.characters, self.labels, strict=True)
        entries = {f"{character} ({name})": number for number, (character, name) in enumerate(pairs)}
        return json.dumps({"codepoint_to_id": entries}, ensure_ascii=False, indent=1) + "\n"

    def identity(self) -> str:
        """sha256 of `index.json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def label(code_point: int) -> str:
    """The label of a code point, such as `U+4E00`."""
    return f"U+{code_point:04X}"


def parse_label(text: str, where: str) -> int:
    """The code point of a label such as `U+4E00`. where: its source, named in the InputError for any other text."""
    match = LABEL.fullmatch(text)
    if match is None:
        raise InputError(f"{where}: found {text[:80]!r}, expected U+ and four or five capital hex digits, as in U+4E00")
    try:
        return _character(match[1])
    except ValueError as error:
        raise InputError(f"{where}: {error}; expected a character that can be written, as in U+4E00") from error


def parse_class_map(text: str | bytes, where: str) -> ClassMap:
    """Parse `index.json`. where: its name for the InputError that is raised unless it numbers classes 0..n-1."""
    try:
        entries = parse_json(text)["codepoint_to_id"]
        found = {int(number): _entry(name) for name, number in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{where}: not a class map ({str(error)[:80]}); expected {{'codepoint_to_id': {{'一 (U+4E00)': 0}}}}"
        ) from error
    if sorted(found) != list(range(len(entries))):
        raise InputError(f"{where}: class numbers are not 0..{len(entries) - 1}, each once")
    points = tuple(found[number][0] for number in range(len(found)))
    return ClassMap(points, tuple(sorted((point, name) for point, name in found.values() if name)))


def read_class_map(folder: Path) -> ClassMap:
    """Read the class map in the folder of a shard set or of a checkpoint. Raises InputError if there is none."""
    return load_class_map(folder / CLASSES_NAME, "expected a class map, which shard sets and checkpoints have there")


def load_class_map(path: Path, expected: str) -> ClassMap:
    """Read a class map. expected: the end of the message if it cannot be read. Raises InputError."""
    try:
        text = read_bounded(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {expected}") from error
    except ValueError as error:
        raise InputError(f"{path}: {str(error)[:80]}; {expected}") from error
    return parse_class_map(text, str(path))


def check_name(name: str) -> str:
    """The name of a class. Raises ValueError for one that is empty, too long, or not to be printed."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"class name {name[:40]!r}: expected 1 to {LONGEST_NAME} characters that can be printed")
    return name


def _entry(entry: str) -> tuple[int, str]:
    """The code point of an entry, and the name of its class; an empty one for a character."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(f"entry {entry[:40]!r}")
    name, point = match[1], _character(match[2])
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", chr(point)):
        return point, ""
    if point not in PRIVATE_USE:  # a bit of either may have turned over
        raise ValueError(f"entry {entry[:40]!r}, whose code point is that of {chr(point)}")
    return point, check_name(name)


def _character(digits: str) -> int:
    """A code point. Raises ValueError for half a surrogate pair, and for what moves a terminal's cursor or its text."""
    code_point = int(digits, 16)
    if unicodedata.category(chr(code_point)) in UNWRITABLE:
        raise ValueError(f"U+{digits} is no character that can be written")
    return code_point
