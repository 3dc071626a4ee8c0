"""The chart of benchmark scale: predictions beside measurements, and what is left of many GPUs' speed."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bars import finish, whiskers

Row = dict[str, Any]
PREDICTED, MEASURED = "#8f9aa5", "#b5342a"
ESTIMATES = {"low": "#3d4a57", "high": "#8f9aa5"}  # of a GPU's speed
MARGIN = 0.15
HALF = 0.38  # of the room for two bars


def figure(result: Row) -> Figure:
    """Two panels: the validation; the share of the GPUs' estimated speed that is reached, and what limits there."""
    above, below = result["validation"], result["breaks"]
    configurations = list(dict.fromkeys(map(_configuration, below)))
    sizes = [len(above) + 1, len(configurations) + 1]
    found = Figure(figsize=(11, 0.42 * sum(sizes) + 1.5), layout="constrained")
    first, second = found.subplots(2, height_ratios=sizes)
    _validation(first, above)
    _reached(second, below, configurations)
    return found


def _validation(axes: Axes, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    axes.barh([place - HALF / 2 for place in places], [row["predicted"] for row in rows], HALF, color=PREDICTED)
    measured = [row["median"] for row in rows]
    axes.barh(
        [place + HALF / 2 for place in places], measured, HALF, xerr=whiskers(rows), color=MEASURED, ecolor="#222"
    )
    for place, row in enumerate(rows):
        axes.annotate(f" {row['error']:+.1%}", (max(row["predicted"], row["highest"]), place), va="center", size=8)
    axes.set_title("images/s of small real pipelines: predicted grey, measured red", fontsize="small", loc="left")
    finish(axes, [row["name"] for row in rows], margin=MARGIN)


def _reached(axes: Axes, rows: Sequence[Row], configurations: Sequence[str]) -> None:
    for row in rows:
        place = configurations.index(_configuration(row)) + (-HALF if row["GPU"] == "low" else HALF) / 2
        axes.barh(place, 100 * row["of the GPUs"], HALF, color=ESTIMATES[row["GPU"]])
        axes.annotate(f" {row['first limit']}", (100 * row["of the GPUs"], place), va="center", size=8)
    title = "per cent of the GPUs' own speed, and what limits it; by ESTIMATES of that speed, low dark and high light"
    axes.set_title(title, fontsize="small", loc="left")
    finish(axes, configurations, margin=MARGIN)


def _configuration(row: Row) -> str:
    return f"{row['GPUs']:,} GPUs, {row['batch']}"
