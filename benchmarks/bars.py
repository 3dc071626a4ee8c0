"""Shared by the charts of horizontal bars: whiskers, labels, and SVG that is reproducible byte for byte."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shards.checksums import file_digest


def whiskers(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Error bars for `Axes.barh`: from each median down to the lowest and up to the highest measurement."""
    below = [row["median"] - row["lowest"] for row in rows]
    return [below, [row["highest"] - row["median"] for row in rows]]


def finish(axes: Axes, names: Sequence[str], *, margin: float) -> None:
    """Label the bars, the first one on top. margin: room for text beside the longest bar, by the width of the axis."""
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=margin)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def svg(figure: Figure, shown: str) -> bytes:
    """The figure as SVG, the same bytes for the same figure. shown: digest of the result that it shows."""
    content = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kkanji"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Source": shown})
    return content.getvalue()


def digest(path: Path) -> str:
    """What a chart carries of the result that it shows."""
    return f"sha256 {file_digest(path)}"
