"""The chart of the benchmark size: seconds by the number of images, both axes logarithmic."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rows import Row, caption
from benchmarks.size.size import measured

COSTS = {
    "manifest s": "#3d4a57",
    "open s": "#b5342a",
    "labels s": "#d98c3f",
    "balanced s": "#4f7d4b",
    "open cold s": "#b5342a",
    "balanced cold s": "#4f7d4b",
}


def figure(result: Row) -> Figure:
    """A line for each cost; dashed where files were not in the page cache, dotted where nobody measured."""
    rows = result["rows"]
    found = Figure(figsize=(9, 5), layout="constrained")
    axes = found.subplots()
    for name, colour in COSTS.items():
        style = "--" if "cold" in name else "-"
        _line(axes, measured(rows), name, color=colour, linestyle=style, marker="o", label=name.removesuffix(" s"))
        _line(axes, [*measured(rows)[-1:], *rows[len(measured(rows)) :]], name, color=colour, linestyle=":", marker="x")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"images; dotted: computed, not measured\n{caption(result, rows)}", fontsize="small")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    axes.set_title("benchmarks size: what a process waits for before its first image", fontsize="medium")
    return found


def _line(axes: Axes, rows: list[Row], name: str, **style: Any) -> None:
    axes.plot([row["images"] for row in rows], [row[name] for row in rows], **style)
