"""Tables made from the JSON of a benchmark: on the terminal, and as Markdown for the README."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards import InputError

Row = dict[str, Any]
COLUMNS = ("images/s", "lowest", "highest", "MB/s", "of the limit")


def table(result: Path) -> None:
    """Print the Markdown table of a result.

    Example: python -m benchmarks table --result benchmarks/results/loader.json

    Args:
        result: JSON that a benchmark wrote
    """
    try:
        found = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{result}: {error}; expected the JSON that a benchmark wrote") from error
    sys.stdout.write("\n".join(markdown(found["rows"])) + "\n")


def print_rows(rows: Sequence[Row]) -> None:
    """Fixed columns under a heading for each kind of order."""
    sys.stdout.write(f"{'':52}" + "".join(f"{column:>13}" for column in COLUMNS) + "\n")
    for row in rows:
        cells = "".join(f"{cell:>13}" for cell in _cells(row, rows)) if "n" in row else f"  skipped: {row['skipped']}"
        sys.stdout.write(f"{_label(row):52}{cells}\n")


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table, what was skipped included."""
    yield "| | order | " + " | ".join(COLUMNS) + " |"
    yield "|---|---|" + "---:|" * len(COLUMNS)
    for row in rows:
        cells = _cells(row, rows) if "n" in row else [f"skipped: {row['skipped']}", "", "", "", ""]
        yield f"| {_label(row)} | {row['order']} | " + " | ".join(cells) + " |"


def _label(row: Row) -> str:
    return row["name"] if "latency_ms" not in row else f"{row['latency_ms']} ms: {row['name']}"


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
