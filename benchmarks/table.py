"""Tables made from the JSON of a benchmark: on the terminal, and as Markdown in documents.

In a document a table stands between two marker lines, and is written by `python -m benchmarks table --update`:

    <!-- table: benchmarks/results/loader.json -->
    <!-- end -->

A result with several tables has them by name: `<!-- table: benchmarks/results/prepare.json balance -->`.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.accuracy import accuracy
from benchmarks.rows import Row, caption, markdown, plain, read_result
from benchmarks.subject import ROOT
from shards import InputError, write_file

BEGIN = re.compile(r"<!-- table: (?P<result>\S+)(?: (?P<name>\S+))? -->")
END = "<!-- end -->"


def table(result: Path | None = None, *, update: tuple[Path, ...] = (), check: tuple[Path, ...] = ()) -> None:
    """Print the Markdown table of a result, or write the tables of documents, or check them.

    Example: python -m benchmarks table --update docs/speed.md

    Args:
        result: JSON that a benchmark wrote
        update: documents whose tables are to be written anew, between `<!-- table: FILE -->` and `<!-- end -->`
        check: documents whose tables are to be compared with the JSON; one that differs is told, with status 1
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
    old = [str(path) for path in check if filled(text := _read(path), str(path)) != text]
    if old:
        raise SystemExit(
            f"not what the results give: {', '.join(old)}; run `python -m benchmarks table --update` on it"
        )


def filled(text: str, where: str) -> str:
    """A document with the tables between its markers as their results give them. Raises InputError naming the line."""
    lines: list[str] = []
    opened = 0
    for number, line in enumerate(text.splitlines(), 1):
        begin = BEGIN.fullmatch(line)
        if (begin and opened) or (line == END and not opened):
            raise InputError(f"{where}:{number}: found {line}, expected {END if opened else 'a table to begin before'}")
        if begin:
            lines += [line, *table_of(ROOT / begin["result"], begin["name"] or "rows"), END]
        opened = number if begin else 0 if line == END else opened
        if not opened and line != END:
            lines.append(line)
    if opened:
        raise InputError(f"{where}:{opened}: a table begins here; expected the line {END} after it")
    return "\n".join(lines) + "\n" * text.endswith("\n")


def table_of(path: Path, name: str = "rows") -> list[str]:
    """Markdown lines of one table of a result, and of what it was measured on. Raises InputError if it has none."""
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
