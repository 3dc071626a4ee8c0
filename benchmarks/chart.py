"""Charts made from the JSON of benchmarks: a bar for each row, with whiskers from the lowest to the highest value.

The benchmarks scale and accuracy have charts of their own. Every chart carries the digest of its JSON, so that a test
can see when it is out of date.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy import accuracy
from benchmarks.bars import digest, finish, svg, whiskers
from benchmarks.rows import Row, caption, read_result
from benchmarks.simulation import scale_chart
from benchmarks.size import size_chart
from shards import InputError, write_file

RESULTS = ("loader", "stream", "prepare", "train", "scale", "size", "accuracy")
OWN = {"scale": scale_chart.figure, "size": size_chart.figure, "accuracy": accuracy.figure}
OURS, OTHERS, LIMIT = "#b5342a", "#8f9aa5", "#3d4a57"
BAR_INCHES, WIDTH = 0.27, 11
MANY_TIMES = 20  # ratio of the highest to the lowest bar above which the axis is logarithmic


def chart(
    *,
    results: Path = Path("benchmarks/results"),
    output: Path = Path("docs"),
    check: bool = False,
) -> None:
    """Draw a chart of each recorded result. Rates are in images/s: ours red, the limit dark, others grey.

    Example: python -m benchmarks chart

    Args:
        results: folder with some or all of loader.json, stream.json and so on
        output: folder for loader.svg, stream.svg and so on
        check: write nothing; status 1 if a chart is out of date
    """
    found = [results / f"{name}.json" for name in RESULTS if (results / f"{name}.json").is_file()]
    if not found:
        raise InputError(f"{results}: none of {', '.join(f'{name}.json' for name in RESULTS)}")
    if check:
        outdated = [str(target) for path in found if not is_of(target := output / f"{path.stem}.svg", path)]
        if outdated:
            raise SystemExit(f"charts out of date: {', '.join(outdated)}; run `python -m benchmarks chart`")
        return
    output.mkdir(parents=True, exist_ok=True)
    for path in found:
        write_file(output / f"{path.stem}.svg", svg(draw(read_result(path), path), digest(path)))
        sys.stdout.write(f"{output / path.stem}.svg\n")


def is_of(target: Path, result: Path) -> bool:
    """Whether a chart shows this result: whether it carries the result's digest."""
    return target.is_file() and digest(result) in target.read_text(encoding="utf-8")


def draw(result: Row, path: Path) -> Figure:
    """The chart of a result, with a panel for each latency. Raises InputError if no row was measured."""
    try:
        if result["benchmark"] in OWN:
            return OWN[result["benchmark"]](result)
        measured = [row for row in result["rows"] if "n" in row]
        if not measured:
            raise InputError(f"{path}: no measured row; run the benchmark again")
        panels: dict[int | None, list[Row]] = {}
        for row in measured:
            panels.setdefault(row.get("latency_ms"), []).append(row)
        return _figure(result, list(panels.values()))
    except KeyError as error:
        raise InputError(f"{path}: found nothing named {error}; expected the JSON that a benchmark wrote") from error


def _figure(result: Row, panels: Sequence[Sequence[Row]]) -> Figure:
    sizes = [len(rows) + 1 for rows in panels]
    figure = Figure(figsize=(WIDTH, BAR_INCHES * sum(sizes) + 1.2), layout="constrained")
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=sizes)
    medians = [row["median"] for rows in panels for row in rows]
    logarithmic = max(medians) > MANY_TIMES * min(medians)
    for axes, rows in zip(grid[:, 0], panels, strict=True):
        _bars(axes, rows, logarithmic=logarithmic)
    figure.suptitle(f"benchmarks {result['benchmark']}: images/s", fontsize="medium")
    scale = "logarithmic; " if logarithmic else ""
    axes.set_xlabel(f"images/s ({scale}lowest to highest as whiskers)\n{_conditions(result)}", fontsize="small")
    return figure


def _conditions(result: Row) -> str:
    """The caption in two lines: in one it would not fit."""
    parts = caption(result, result["rows"]).split("; ")
    half = len(parts) // 2
    return f"{'; '.join(parts[:half])};\n{'; '.join(parts[half:])}"


def _bars(axes: Axes, rows: Sequence[Row], *, logarithmic: bool) -> None:
    medians = [row["median"] for row in rows]
    if logarithmic:
        axes.set_xscale("log")
    axes.barh(
        range(len(rows)), medians, xerr=whiskers(rows), color=[_colour(row) for row in rows], ecolor="#222", capsize=2
    )
    for place, row in enumerate(rows):
        text = f" {row['median']:,.0f}"
        axes.annotate(text, (row["highest"], place), xytext=(3, 0), textcoords="offset points", va="center", size=8)
    finish(axes, [_label(row) for row in rows], margin=0.12)
    if "latency_ms" in rows[0]:
        axes.set_title(f"{rows[0]['latency_ms']} ms of latency", fontsize="small", loc="left")


def _label(row: Row) -> str:
    """The name and what is shuffled, as only rows with the same kind of order are comparable."""
    return f"{row['name']} ({row['order']})" if "order" in row else str(row["name"])


def _colour(row: Row) -> str:
    if row["name"].startswith("limit"):
        return LIMIT
    return OURS if row["name"].startswith("kkanji") else OTHERS
