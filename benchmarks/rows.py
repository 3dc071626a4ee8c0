"""Rows of benchmark results: read from JSON, printed on the terminal and as Markdown tables."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.format.layout import IMAGE_BYTES
from shards.json_reading import read_json

Row = dict[str, Any]
COLUMNS = ("images/s", "lowest", "highest", "MB/s", "of the limit")


def read_result(path: Path) -> Row:
    """What a benchmark wrote. Raises InputError when the file is not that."""
    return read_json(path, remedy=f"expected the JSON of `python -m benchmarks {path.stem}`: run it")


def caption(result: Row, rows: Sequence[Row]) -> str:
    """The line below a table: number of measurements, options, machine, date and commit."""
    state = result["environment"]
    named = {name.replace("_", " "): value for name, value in result.get("options", {}).items()}
    options = [f"{name} {written(value)}" for name, value in named.items() if isinstance(value, int | float)]
    counts = sorted({row["n"] for row in rows if "n" in row})
    medians = [f"Medians of {' and '.join(map(str, counts))}"] if counts else []
    machine = f"{state['cpu']}, {state['cores']} cores, {state['gpu'] or 'no GPU'}"
    origin = f"{state['date']}, commit {(state['commit'] or 'unknown')[:7]}"
    return f"{'; '.join([*medians, *options, machine, origin])}."


def print_rows(rows: Sequence[Row]) -> None:
    """Print rows in fixed columns."""
    sys.stdout.write(f"{'':52}" + "".join(f"{column:>13}" for column in COLUMNS) + "\n")
    for row in rows:
        cells = "".join(f"{cell:>13}" for cell in _cells(row, rows)) if "n" in row else f"  skipped: {row['skipped']}"
        sys.stdout.write(f"{label(row):52}{cells}\n")


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table of rates. Skipped peers have a row with the reason; empty columns are left out."""
    cells = [_cells(row, rows) if "n" in row else [f"skipped: {row['skipped']}", *[""] * 4] for row in rows]
    shown = [number for number in range(len(COLUMNS)) if any(line[number] for line in cells)]
    yield from _framed(["", "order", *(COLUMNS[number] for number in shown)], left=2)
    for row, line in zip(rows, cells, strict=True):
        yield _line([label(row), row["order"], *(line[number] for number in shown)])


def plain(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table with a column for each field of any row; nested fields are left out."""
    names = {name: None for row in rows for name, value in row.items() if not isinstance(value, dict | list)}
    yield from _framed([name.replace("_", " ") if name != "name" else "" for name in names], left=1)
    for row in rows:
        yield _line([written(row.get(name)) for name in names])


def written(value: object) -> str:
    """A value with its significant digits only; an empty string for None."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def label(row: Row) -> str:
    """The name of a row in tables and charts."""
    return row["name"] if "latency_ms" not in row else f"{row['latency_ms']} ms: {row['name']}"


def _framed(names: Sequence[str], *, left: int) -> Iterator[str]:
    yield _line(names)
    yield "|" + "---|" * left + "---:|" * (len(names) - left)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """One cell for each of COLUMNS."""
    rates = [f"{row[name]:,.0f}" for name in ("median", "lowest", "highest")]
    return [*rates, f"{row['median'] * IMAGE_BYTES / 1e6:,.0f}", _of_the_limit(row, rows)]


def _of_the_limit(row: Row, rows: Sequence[Row]) -> str:
    """The rate as a fraction of that of the row named limit, at the same latency."""
    limits = [
        other["median"]
        for other in rows
        if other["name"].startswith("limit") and "n" in other and other.get("latency_ms") == row.get("latency_ms")
    ]
    return f"{row['median'] / limits[0]:.1%}" if limits else ""
