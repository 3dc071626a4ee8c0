"""The chart of the benchmark scale: predicted beside measured rates, and the fraction of many GPUs' speed reached."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bars import finish, whiskers
from benchmarks.rows import Row

PREDICTED, MEASURED = "#8f9aa5", "#b5342a"
ESTIMATES = {"low": "#3d4a57", "high": "#8f9aa5"}  # colours of the two estimates of a GPU's speed
MARGIN = 0.15
HEIGHT = 0.38  # of one of the two bars that share a row


def figure(result: Row) -> Figure:
    """Two panels: the validation, and the fraction of the GPUs' estimated speed that is reached with what limits it."""
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
    axes.barh([place - HEIGHT / 2 for place in places], [row["predicted"] for row in rows], HEIGHT, color=PREDICTED)
    measured = [row["median"] for row in rows]
    axes.barh(
        [place + HEIGHT / 2 for place in places], measured, HEIGHT, xerr=whiskers(rows), color=MEASURED, ecolor="#222"
    )
    for place, row in enumerate(rows):
        axes.annotate(f" {row['error']:+.1%}", (max(row["predicted"], row["highest"]), place), va="center", size=8)
    axes.set_title("images/s of small real pipelines: predicted grey, measured red", fontsize="small", loc="left")
    finish(axes, [row["name"] for row in rows], margin=MARGIN)


def _reached(axes: Axes, rows: Sequence[Row], configurations: Sequence[str]) -> None:
    for row in rows:
        place = configurations.index(_configuration(row)) + (-HEIGHT if row["GPU"] == "low" else HEIGHT) / 2
        axes.barh(place, 100 * row["of the GPUs"], HEIGHT, color=ESTIMATES[row["GPU"]])
        axes.annotate(f" {row['first limit']}", (100 * row["of the GPUs"], place), va="center", size=8)
    title = "per cent of the GPUs' own speed, and what limits it; by ESTIMATES of that speed, low dark and high light"
    axes.set_title(title, fontsize="small", loc="left")
    finish(axes, configurations, margin=MARGIN)


def _configuration(row: Row) -> str:
    return f"{row['GPUs']:,} GPUs, {row['batch']}"
