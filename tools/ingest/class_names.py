"""What the names of classes in a source mean: code points.

A folder or a label is named by a code point (U+4E00), by its character (一), or by both, as in 一 (U+4E00). Any other
name, and any number, is explained by a class map that the user gives, in one of three forms:

    name,class          a CSV file: a code point, a character, or free text for a class that is no single character
    index,codepoint,char  CODH's own
    index.json          as beside a shard set

Classes of free text get code points for private use, in the order of their texts (kkanji.classes).
"""

import csv
import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kkanji.classes import PRIVATE_USE, ClassMap, check_name, label, load_class_map, parse_label
from shards.errors import InputError
from shards.json_reading import read_bounded

COLUMNS = ("name", "class")
CODH_COLUMNS = ("index", "codepoint", "char")
FORMS = f"expected a CSV file of {','.join(COLUMNS)} or {','.join(CODH_COLUMNS)}, or an index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassNames:
    """The names that a class map explains; without one, code points and characters alone are names."""

    points: Mapping[str, int] = field(default_factory=dict)
    """Code points by name."""
    texts: Mapping[int, str] = field(default_factory=dict)
    """Names of the classes that are no single character, by their code points for private use."""

    def point(self, name: str, where: str) -> int:
        """The code point of a class. Raises InputError that begins with `where`."""
        if name in self.points:
            return self.points[name]
        if name.startswith("U+"):
            return parse_label(name, where)
        character, _, rest = name.partition(" (")
        character = unicodedata.normalize("NFC", character) if len(character) == 2 else character  # が, as macOS has it
        if len(character) == 1 and not name.isdecimal() and rest in ("", f"{label(ord(character))})"):
            return parse_label(label(ord(character)), where)
        raise InputError(
            f"{where}: found class {name[:80]!r}; expected U+4E00, 一, or a name that --classes FILE explains: give a "
            f"CSV file of {','.join(COLUMNS)} with its line"
        )


def read_class_names(path: Path | None) -> ClassNames:
    """The class map of --classes. Raises InputError."""
    if path is None:
        return ClassNames()
    if path.suffix == ".json":
        return _by_number(load_class_map(path, FORMS))
    rows = _rows(path)
    if rows[:1] == [list(COLUMNS)]:
        return _named(rows[1:], path)
    return _by_number(ClassMap(tuple(read_codh_classes(path))))


def read_codh_classes(path: Path) -> list[int]:
    """The code points of CODH's class map, by label. Raises InputError."""
    rows = _rows(path)
    if rows[:1] != [list(CODH_COLUMNS)]:
        raise InputError(f"{path}: columns {','.join(rows[0] if rows else [])[:80]!r}; {FORMS}")
    points = [parse_label(row[1], str(path)) for row in rows[1:] if len(row) == len(CODH_COLUMNS)]
    fitting = [[str(number), label(point), chr(point)] for number, point in enumerate(points)]
    if rows[1:] != fitting or not points or len(set(points)) < len(points):
        raise InputError(f"{path}: expected rows numbered from 0 on, each with its own code point and character")
    return points


def _rows(path: Path) -> list[list[str]]:
    try:
        text = read_bounded(path).decode("utf-8-sig")
        return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: {str(getattr(error, 'strerror', None) or error)[:80]}; {FORMS}") from error


def _by_number(classes: ClassMap) -> ClassNames:
    """A class is named by its number, its label, and its character or text."""
    columns = (map(str, range(len(classes))), classes.labels, classes.characters)
    names = {name: point for column in reversed(columns) for name, point in zip(column, classes.code_points)}  # noqa: B905
    return ClassNames(points=names, texts=dict(classes.names))


def _named(rows: Sequence[Sequence[str]], path: Path) -> ClassNames:
    names: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS) or row[0] in names:
            found = f"{len(row)} values" if len(row) != len(COLUMNS) else f"{row[0][:40]!r} a second time"
            raise InputError(f"{path}: line {number}: found {found}; expected a name and its class, each name once")
        names[row[0]] = row[1]
    texts = sorted({text for text in names.values() if not _is_character(text)})
    if len(texts) > len(PRIVATE_USE):
        raise InputError(f"{path}: {len(texts):,} classes of free text; expected {len(PRIVATE_USE):,} at most")
    private = dict(zip(_checked(texts, path), PRIVATE_USE, strict=False))
    direct = ClassNames()
    points = {name: private.get(text) or direct.point(text, f"{path}: {name[:40]}") for name, text in names.items()}
    return ClassNames(points=points, texts={point: text for text, point in private.items()})


def _is_character(text: str) -> bool:
    return text.startswith("U+") or len(unicodedata.normalize("NFC", text)) == 1


def _checked(texts: Sequence[str], path: Path) -> Sequence[str]:
    try:
        return [check_name(text) for text in texts]
    except ValueError as error:
        raise InputError(f"{path}: {error}: change it") from error
