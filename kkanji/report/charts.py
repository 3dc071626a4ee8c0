"""Charts of the evaluation: accuracy by training images, calibration, the classes with the lowest recall."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from kkanji.evaluation.calibration import Calibration
from kkanji.evaluation.confusion import ClassRecall
from kkanji.evaluation.metrics import interval
from kkanji.glyphs import code_point, has_glyph
from kkanji.report.published import PUBLISHED_TOP1, applies
from kkanji.report.run import Bin, Run
from kkanji.report.style import Chart, Palette, legend_above, tidy
from kkanji.report.text import percent, quantity
from kkanji.wording import counted

FEW_IMAGES = 20  # a calibration bin with fewer gets a hollow point: its accuracy is mostly chance
LABEL_POINTS = 9.5


def rarity_chart(run: Run) -> Chart:
    """Accuracy by the number of training originals of the class, with the published figures where they apply."""
    bins = [entry for entry in run.evaluation.bins if entry.images]
    published = PUBLISHED_TOP1 if applies(run.data.classes) else {}
    found = "; ".join(f"{entry.training_images}: {percent(entry.top1)}" for entry in bins)
    return Chart(
        name="accuracy_by_training_images",
        title="Accuracy by training images of the character",
        alt=f"Dot chart of top-1 accuracy by the number of training originals of the character. {found}.",
        caption="Each character counts in the row of its own number of training originals; rows without images are not "
        "shown. Bars are 95 % intervals (Wilson) over the images of the row.",
        draw=partial(_draw_rarity, bins, published),
        height_inches=1.1 + 0.5 * len(bins),
    )


def _draw_rarity(bins: Sequence[Bin], published: Mapping[str, float], figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="images predicted correctly")
    rows = np.arange(len(bins), dtype=np.float64)
    top1 = np.array([entry.top1 for entry in bins], dtype=np.float64)
    top5 = np.array([entry.top5 for entry in bins], dtype=np.float64)
    spans = [interval(fraction, entry.images) for fraction, entry in zip(top1, bins, strict=True)]
    _draw_intervals(axes, rows, top1, spans, palette, "top-1 with 95 % interval")
    axes.plot(top5, rows, "o", color=palette.indigo, markerfacecolor="none", label="top-5")
    names = [entry.training_images for entry in bins]
    places = {row: published[name] for row, name in enumerate(names) if name in published}
    if places:
        x, y = list(places.values()), list(places)
        axes.plot(x, y, "D", color=palette.vermilion, markerfacecolor="none", markersize=5.5, label="published 2022")
    _label_rows(axes, [_bin_label(entry) for entry in bins], [percent(entry.top1) for entry in bins])
    _fraction_axis(axes, min([low for low, _high in spans] + list(places.values()), default=0.0))
    legend_above(figure, columns=3)


def calibration_chart(calibration: Calibration) -> Chart:
    """The reliability diagram, and below it a histogram of the probabilities."""
    error = percent(calibration.error, 2)
    return Chart(
        name="calibration",
        title="Calibration",
        alt="Reliability diagram: accuracy against the probability of the first prediction, and a histogram of the "
        f"probabilities. The expected calibration error is {error}.",
        caption=f"Expected calibration error {error} ({len(calibration.images)} bins of equal width). Points below "
        "the diagonal: the network is overconfident; above it: underconfident. Bars are 95 % intervals (Wilson); "
        f"hollow points have fewer than {FEW_IMAGES} images.",
        draw=partial(_draw_calibration, calibration),
        height_inches=4.9,
    )


def _draw_calibration(calibration: Calibration, figure: Figure, palette: Palette) -> None:
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    tidy(above, y="accuracy")
    above.plot([0, 1], [0, 1], color=palette.muted, linestyle="--", linewidth=1)
    _draw_reliability(above, calibration, palette)
    tidy(below, x="probability of the first prediction", y="images")
    left, width = calibration.edges[:-1], np.diff(calibration.edges)
    below.bar(left, calibration.images, width, align="edge", color=palette.indigo, edgecolor=palette.paper)
    below.set_yscale("symlog", linthresh=10)  # nearly all images lie in the last bin
    below.yaxis.set_major_formatter(lambda value, _position: quantity(value))
    above.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(_percents())


def _draw_reliability(axes: Axes, calibration: Calibration, palette: Palette) -> None:
    for images, stated, right in zip(calibration.images, calibration.confidence, calibration.accuracy, strict=True):
        if images:
            low, high = interval(float(right), int(images))
            axes.plot([stated, stated], [low, high], color=palette.indigo, linewidth=1, alpha=0.6)
            face = palette.indigo if images >= FEW_IMAGES else palette.paper
            axes.plot([stated], [right], "o", color=palette.indigo, markerfacecolor=face, markersize=5, clip_on=False)


def recall_chart(weakest: Sequence[ClassRecall], characters: Sequence[str]) -> Chart:
    """The classes with the lowest recall, each with the confidence interval of its few images."""
    worst = weakest[0]
    return Chart(
        name="lowest_recall",
        title="Recall with 95 % intervals",
        alt=f"Dot chart of the recall of the {counted(len(weakest), 'character')} with the lowest recall, from "
        f"{_name(characters[worst.label])} with {worst.right} of {worst.images} upwards.",
        caption="Bars are 95 % intervals (Wilson). With so few images the order of the list is partly chance.",
        draw=partial(_draw_recall, weakest, [_name(characters[entry.label]) for entry in weakest]),
        height_inches=0.8 + 0.26 * len(weakest),
    )


def _draw_recall(weakest: Sequence[ClassRecall], names: Sequence[str], figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="images of the character predicted correctly")
    fractions = np.array([entry.right / entry.images for entry in weakest])
    spans = [interval(float(fraction), entry.images) for fraction, entry in zip(fractions, weakest, strict=True)]
    _draw_intervals(axes, np.arange(len(weakest), dtype=np.float64), fractions, spans, palette, "")
    _label_rows(axes, names, [f"{entry.right} of {entry.images}" for entry in weakest])
    _fraction_axis(axes, 0)


def _draw_intervals(
    axes: Axes,
    rows: NDArray[np.float64],
    fractions: NDArray[np.float64],
    spans: Sequence[tuple[float, float]],
    palette: Palette,
    label: str,
) -> None:
    lows, highs = [low for low, _high in spans], [high for _low, high in spans]
    axes.hlines(rows, lows, highs, color=palette.indigo, linewidth=2, alpha=0.45)
    axes.plot(fractions, rows, "o", color=palette.indigo, label=label)


def _label_rows(axes: Axes, names: Sequence[str], values: Sequence[str]) -> None:
    """Names on the left, values on the right, the first row on top."""
    axes.set_yticks(range(len(names)), names, fontsize=LABEL_POINTS, linespacing=1.35)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for row, value in enumerate(values):
        axes.text(1.02, row, value, transform=axes.get_yaxis_transform(), va="center", fontsize=LABEL_POINTS)


def _fraction_axis(axes: Axes, lowest: float) -> None:
    """From the ten per cent below the lowest value to one."""
    axes.set_xlim(np.floor(10 * lowest) / 10, 1)
    axes.xaxis.set_major_formatter(_percents())


def _percents() -> PercentFormatter:
    return PercentFormatter(xmax=1, decimals=0, symbol="\u00a0%")


def _bin_label(entry: Bin) -> str:
    return f"{entry.training_images}\n{counted(entry.classes, 'class', 'classes')}, {counted(entry.images, 'image')}"


def _name(character: str) -> str:
    return f"{character} {code_point(character)}" if has_glyph(character) else code_point(character)
