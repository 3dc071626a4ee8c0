"""What charts of horizontal bars have in common."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes


def whiskers(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """From each median down to the lowest and up to the highest measurement, for `Axes.barh`."""
    below = [row["median"] - row["lowest"] for row in rows]
    return [below, [row["highest"] - row["median"] for row in rows]]


def finish(axes: Axes, names: Sequence[str], *, margin: float) -> None:
    """Name the bars, the first one on top, and leave room beside them for what is written there."""
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=margin)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
