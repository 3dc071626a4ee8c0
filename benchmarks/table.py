"""Tables made from the JSON of a benchmark: on the terminal, and as Markdown in documents.

In a document a table stands between two marker lines, and is written by `python -m benchmarks table --update`:

    <!-- table: benchmarks/results/loader.json -->
    <!-- end -->

A result with several tables has them by name: `<!-- table: benchmarks/results/prepare.json balance -->`.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import accuracy
from benchmarks.subject import ROOT
from shards import InputError, write_file

Row = dict[str, Any]
COLUMNS = ("images/s", "lowest", "highest", "MB/s", "of the limit")
BEGIN = re.compile(r"<!-- table: (?P<result>\S+)(?: (?P<name>\S+))? -->")
END = "<!-- end -->"


def table(result: Path | None = None, *, update: tuple[Path, ...] = (), check: tuple[Path, ...] = ()) -> None:
    """Print the Markdown table of a result, or write the tables of documents, or check them.

    Example: python -m benchmarks table --update README.md

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


def read_result(path: Path) -> Row:
    """What a benchmark wrote. Raises InputError when the file is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected the JSON of `python -m benchmarks {path.stem}`: run it") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: found {type(found).__name__}, expected the JSON object that a benchmark wrote")
    return found


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


def caption(result: Row, rows: Sequence[Row]) -> str:
    """How often and on what it was measured."""
    state = result["environment"]
    options = {name.replace("_", " "): value for name, value in result.get("options", {}).items()}
    told = [f"{name} {written(value)}" for name, value in options.items() if isinstance(value, int | float)]
    counts = sorted({row["n"] for row in rows if "n" in row})
    medians = [f"Medians of {' and '.join(map(str, counts))}"] if counts else []
    machine = f"{state['cpu']}, {state['cores']} cores, {state['gpu'] or 'no GPU'}"
    origin = f"{state['date']}, commit {(state['commit'] or 'unknown')[:7]}"
    return f"{'; '.join([*medians, *told, machine, origin])}."


def print_rows(rows: Sequence[Row]) -> None:
    """Fixed columns under a heading for each kind of order."""
    sys.stdout.write(f"{'':52}" + "".join(f"{column:>13}" for column in COLUMNS) + "\n")
    for row in rows:
        cells = "".join(f"{cell:>13}" for cell in _cells(row, rows)) if "n" in row else f"  skipped: {row['skipped']}"
        sys.stdout.write(f"{label(row):52}{cells}\n")


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table of rates, what was skipped included; columns that say nothing of any row are left out."""
    cells = [_cells(row, rows) if "n" in row else [f"skipped: {row['skipped']}", *[""] * 4] for row in rows]
    shown = [number for number in range(len(COLUMNS)) if any(line[number] for line in cells)]
    yield from _framed(["", "order", *(COLUMNS[number] for number in shown)], left=2)
    for row, line in zip(rows, cells, strict=True):
        yield _line([label(row), row["order"], *(line[number] for number in shown)])


def plain(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table of rows with the same plain values, which their names head."""
    names = [name for name, value in rows[0].items() if not isinstance(value, dict | list)]
    yield from _framed([name.replace("_", " ") if name != "name" else "" for name in names], left=1)
    for row in rows:
        yield _line([written(row.get(name)) for name in names])


def written(value: object) -> str:
    """A value with as many digits as say something; nothing for None."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def label(row: Row) -> str:
    """What a row is called in tables and charts."""
    return row["name"] if "latency_ms" not in row else f"{row['latency_ms']} ms: {row['name']}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a Markdown document") from error


def _count(text: str) -> int:
    return sum(BEGIN.fullmatch(line) is not None for line in text.splitlines())


def _framed(names: Sequence[str], *, left: int) -> Iterator[str]:
    yield _line(names)
    yield "|" + "---|" * left + "---:|" * (len(names) - left)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    rates = [f"{row[name]:,.0f}" for name in ("median", "lowest", "highest")]
    return [*rates, f"{row['median'] * 4096 / 1e6:,.0f}", _share(row, rows)]


def _share(row: Row, rows: Sequence[Row]) -> str:
    """Of the row named limit, at the same latency."""
    limits = [
        other["median"]
        for other in rows
        if other["name"].startswith("limit") and "n" in other and other.get("latency_ms") == row.get("latency_ms")
    ]
    return f"{row['median'] / limits[0]:.1%}" if limits else ""
