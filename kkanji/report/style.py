"""How charts look: palettes for light and dark pages, the font, and drawing to PNG bytes without global state."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kkanji.glyphs import FONT_FAMILY, font_path

WIDTH_INCHES = 5.6  # with text of 11 points: legible too where a phone shows a chart 320 pixels wide
DOTS_PER_INCH = 180


@dataclass(frozen=True, kw_only=True, slots=True)
class Palette:
    """Colours of one scheme; the three hues differ for colour-blind readers too."""

    paper: str
    ink: str
    muted: str
    grid: str
    indigo: str
    vermilion: str
    green: str


LIGHT = Palette(
    paper="#ffffff",
    ink="#22201c",
    muted="#6d685e",
    grid="#e6e1d6",
    indigo="#1d4f86",
    vermilion="#c73e1d",
    green="#2b8a72",
)
DARK = Palette(
    paper="#1e1f22",
    ink="#eceae4",
    muted="#a5a197",
    grid="#36373c",
    indigo="#82b4e8",
    vermilion="#ff8d6b",
    green="#6fcbb4",
)

Draw = Callable[[Figure, Palette], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A figure with the words that go with it."""

    name: str
    """File name without ending."""
    title: str
    alt: str
    """What a reader who does not see the figure should know."""
    caption: str
    draw: Draw
    height_inches: float = 3.5


def chart_png(chart: Chart, palette: Palette) -> bytes:
    """Draw a chart in the colours of a palette; equal input gives equal bytes."""
    with matplotlib.rc_context(_settings(palette)):
        buffer = io.BytesIO()
        draw_chart(chart, palette).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def draw_chart(chart: Chart, palette: Palette) -> Figure:
    """Draw a chart and place its parts."""
    with matplotlib.rc_context(_settings(palette)):
        figure = Figure(figsize=(WIDTH_INCHES, chart.height_inches), dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)  # attaches itself; without it matplotlib would look for a display
        chart.draw(figure, palette)
        figure.draw_without_rendering()
    return figure


def legend_above(figure: Figure, *, columns: int) -> None:
    """Name what the axes show, above them: curves can lie anywhere within, so a legend there would cover some."""
    figure.legend(loc="outside upper center", ncols=columns, handletextpad=0.4, columnspacing=1)


def tidy(axes: Axes, *, x: str = "", y: str = "") -> None:
    """Name the axes and take away what carries no information."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True)


def _settings(palette: Palette) -> Any:  # a dictionary; matplotlib types its keys as a list of all its option names
    return {
        "font.family": [_register_font(), "DejaVu Sans"],
        "font.size": 11,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "text.usetex": False,
        "text.parse_math": False,
        "axes.unicode_minus": False,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "figure.facecolor": palette.paper,
        "savefig.facecolor": palette.paper,
        "axes.facecolor": palette.paper,
        "grid.color": palette.grid,
        "axes.edgecolor": palette.muted,
        "text.color": palette.ink,
        "axes.labelcolor": palette.ink,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
    }


@lru_cache(maxsize=1)
def _register_font() -> str:
    font_manager.fontManager.addfont(font_path())
    return FONT_FAMILY
