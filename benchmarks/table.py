"""Tables made from the JSON of benchmarks: on the terminal, and as Markdown in documents.

In a document, `python -m benchmarks table --update` writes a table between two marker lines:

    <!-- table: benchmarks/results/loader.json -->
    <!-- end -->

If a result has several tables, the marker names one: `<!-- table: benchmarks/results/prepare.json balance -->`. With
`, if measured` at its end the file may be missing: a sentence then stands for the table.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy import accuracy
from benchmarks.rows import Row, caption, markdown, plain, read_result
from benchmarks.subject import ROOT
from shards import InputError, write_file

BEGIN = re.compile(r"<!-- table: (?P<result>[^\s,]+)(?: (?P<name>[^\s,]+))?(?P<optional>, if measured)? -->")
END = "<!-- end -->"


def table(result: Path | None = None, *, update: tuple[Path, ...] = (), check: tuple[Path, ...] = ()) -> None:
    """Print the Markdown table of a result, or update or check the tables in documents.

    Example: python -m benchmarks table --update docs/speed.md

    Args:
        result: JSON that a benchmark wrote
        update: documents to update, between the lines `<!-- table: FILE -->` and `<!-- end -->`
        check: documents to check; status 1 if a table differs from its JSON
    """
    if [result is not None, bool(update), bool(check)].count(True) != 1:
        raise InputError("expected one of --result FILE, --update FILES and --check FILES")
    if result is not None:
        sys.stdout.write("\n".join(table_of(result)) + "\n")
    for path in update:
        text = _read(path)
        new = filled(text, str(path))
        if new != text:
            write_file(path, new)
        sys.stdout.write(f"{path}: {_count(new)} tables, {'unchanged' if new == text else 'written'}\n")
    outdated = [str(path) for path in check if filled(text := _read(path), str(path)) != text]
    if outdated:
        names = " ".join(outdated)
        raise SystemExit(f"tables differ from the results: {names}; run `python -m benchmarks table --update {names}`")


def filled(text: str, where: str) -> str:
    """The document with every table between its markers replaced. Raises InputError with the line of a bad marker."""
    lines: list[str] = []
    opened = 0  # line number of the open marker; 0 outside of a table
    for number, line in enumerate(text.splitlines(), 1):
        begin = BEGIN.fullmatch(line)
        if (begin and opened) or (line == END and not opened):
            raise InputError(f"{where}:{number}: found {line}, expected {END if opened else 'a table to begin before'}")
        if begin:
            lines += [line, *_table(begin), END]
        opened = number if begin else 0 if line == END else opened
        if not opened and line != END:
            lines.append(line)
    if opened:
        raise InputError(f"{where}:{opened}: a table begins here; expected the line {END} after it")
    return "\n".join(lines) + "\n" * text.endswith("\n")


def _table(marker: re.Match[str]) -> list[str]:
    path = ROOT / marker["result"]
    if marker["optional"] and not path.exists():
        return [f"None measured yet: `python -m benchmarks {path.stem}` writes {path.name}."]
    return table_of(path, marker["name"] or "rows")


def table_of(path: Path, name: str = "rows") -> list[str]:
    """Markdown lines of a table of a result and of its caption. Raises InputError if there is no such table."""
    result = read_result(path)
    rows = result.get(name)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        known = [key for key, value in result.items() if isinstance(value, list)]
        raise InputError(f"{path}: no table {name!r}; it has: {', '.join(known) or 'none'}")
    try:
        lines = list(_lines(rows))
        return [*lines, "", caption(result, rows)] if "environment" in result else lines
    except KeyError as error:
        raise InputError(f"{path}: a row without {error}; expected the JSON that a benchmark wrote") from error


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    if "curve" in rows[0]:
        return accuracy.markdown(rows)
    return markdown(rows) if "order" in rows[0] else plain(rows)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a Markdown document") from error


def _count(text: str) -> int:
    return sum(BEGIN.fullmatch(line) is not None for line in text.splitlines())
