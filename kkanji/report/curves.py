"""Charts of the training: loss, accuracy, precision and recall, learning rate, throughput."""

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kkanji.evaluation.metrics import PER_CLASS
from kkanji.report.log import Curve, TrainingLog
from kkanji.report.style import Chart, Palette, legend_above, tidy
from kkanji.report.text import percent, quantity

SMOOTHED_FROM = 120  # points; fewer are shown as they are
SMOOTHED_PIECES = 60
FED_BELOW = 0.02  # fraction of time waiting for data below which a faster loader would not be noticeable
CURVES = (
    "loss",
    "accuracy",
    "precision_recall_f1",
    "learning_rate",
    "throughput",
    "waiting_for_data",
)  # every name that `curve_charts` can give


def curve_charts(log: TrainingLog) -> tuple[Chart, ...]:
    """The charts that the log has values for, in reading order."""
    charts = []
    if _known(log.steps["loss"]).size or _known(log.evaluations["loss"]).size:
        charts += [_loss(log), _accuracy(log)]
    if _known(log.evaluations["f1_macro"]).size:
        charts.append(_precision_recall(log))
    if _known(log.steps["lr"]).size:
        charts.append(_learning_rate(log))
    if _known(log.steps["images_per_s"]).size:
        charts.append(_throughput(log))
    if _known(log.steps["wait_fraction"]).size:
        charts.append(_waiting(log))
    return tuple(charts)


def _loss(log: TrainingLog) -> Chart:
    return Chart(
        name="loss",
        title="Loss",
        alt=f"Line chart of the loss over the epochs: {_ends(log, 'loss', _plain)}.",
        caption="Training values are means over the images since the previous log line, with augmentation if there is "
        "any; validation values are means over the whole split. So the two can differ from the start.",
        draw=partial(_draw_loss, log),
    )


def _draw_loss(log: TrainingLog, figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="epoch", y="loss")
    _draw_both(axes, log, "loss", palette, "-", "", _plain)
    axes.set_ylim(bottom=0)
    legend_above(figure, columns=2)


def _accuracy(log: TrainingLog) -> Chart:
    return Chart(
        name="accuracy",
        title="Accuracy",
        alt=f"Line chart of accuracy over the epochs. Top-1: {_ends(log, 'top1', percent)}. "
        f"Top-5: {_ends(log, 'top5', percent)}.",
        caption="Solid: the first prediction is correct (top-1). Dotted: one of the first five is (top-5).",
        draw=partial(_draw_accuracy, log),
        height_inches=3.8,
    )


def _draw_accuracy(log: TrainingLog, figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="epoch", y="accuracy")
    _draw_both(axes, log, "top1", palette, "-", " top-1", percent)
    _draw_both(axes, log, "top5", palette, ":", " top-5", percent)
    _percent_axis(axes)
    legend_above(figure, columns=2)


def _precision_recall(log: TrainingLog) -> Chart:
    last = {average: _last(log.evaluations[f"f1_{average}"], percent) for average in ("weighted", "macro")}
    return Chart(
        name="precision_recall_f1",
        title="Precision, recall and F1",
        alt="Line chart of precision, recall and F1 on the validation split over the epochs. The last evaluation has "
        f"a weighted F1 of {last['weighted']} and a macro F1 of {last['macro']}.",
        caption="On the validation split. Weighted (solid): every character is weighted by its images. Macro (dashed): "
        "all characters are weighted equally, so the rare ones lower it.",
        draw=partial(_draw_precision_recall, log),
        height_inches=4.0,
    )


def _draw_precision_recall(log: TrainingLog, figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="epoch")
    for average, style in (("weighted", "-"), ("macro", "--")):
        for measure, colour in zip(PER_CLASS, (palette.green, palette.vermilion, palette.indigo), strict=True):
            values = log.evaluations[f"{measure}_{average}"]
            label = f"{measure.capitalize()} {average} {_last(values, percent)}"
            _draw_points(axes, log.evaluations["epoch"], values, colour, style, label)
    _percent_axis(axes)
    legend_above(figure, columns=2)


def _learning_rate(log: TrainingLog) -> Chart:
    rates = _known(log.steps["lr"])
    found = f"at most {rates.max():.3g}, at the end {rates[-1]:.3g}"
    return Chart(
        name="learning_rate",
        title="Learning rate",
        alt=f"Line chart of the learning rate over the epochs: {found}.",
        caption=f"{found.capitalize()}.",
        draw=partial(_draw_learning_rate, log),
    )


def _draw_learning_rate(log: TrainingLog, figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="epoch", y="learning rate")
    axes.plot(log.steps["epoch"], log.steps["lr"], color=palette.indigo)
    axes.set_ylim(bottom=0)


def _throughput(log: TrainingLog) -> Chart:
    median = quantity(float(np.median(_known(log.steps["images_per_s"]))))
    return Chart(
        name="throughput",
        title="Throughput",
        alt=f"Line chart of the images trained on per second over the epochs, with a median of {median}.",
        caption=f"Median {median} images per second (dashed).",
        draw=partial(_draw_throughput, log),
    )


def _draw_throughput(log: TrainingLog, figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="epoch", y="images per second")
    speed = log.steps["images_per_s"]
    _draw_series(axes, log.steps["epoch"], speed, palette.indigo, "-", "")
    axes.axhline(float(np.median(_known(speed))), color=palette.muted, linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _position: quantity(value))


def _waiting(log: TrainingLog) -> Chart:
    wait = _known(log.steps["wait_fraction"])
    mean, worst = percent(float(wait.mean())), percent(float(np.percentile(wait, 95)))
    verdict = "data was no bottleneck"
    if wait.mean() >= FED_BELOW:
        verdict = "a faster loader would save that time"
    return Chart(
        name="waiting_for_data",
        title="Waiting for data",
        alt=f"Chart of the fraction of time that the training loop waited for data by epoch: {mean} on average.",
        caption=f"{mean} of the time on average, {worst} or more in the worst twentieth of the log lines: {verdict}.",
        draw=partial(_draw_waiting, log),
    )


def _draw_waiting(log: TrainingLog, figure: Figure, palette: Palette) -> None:
    axes = figure.add_subplot()
    tidy(axes, x="epoch", y="fraction of time")
    axes.fill_between(log.steps["epoch"], log.steps["wait_fraction"], color=palette.vermilion, linewidth=0.6)
    _percent_axis(axes)


def _draw_both(
    axes: Axes, log: TrainingLog, field: str, palette: Palette, style: str, suffix: str, show: Callable[[float], str]
) -> None:
    """One quantity in training and in validation."""
    training = f"training{suffix} {_last(_smooth(_known(log.steps[field])), show)}"
    _draw_series(axes, log.steps["epoch"], log.steps[field], palette.indigo, style, training)
    validation = f"validation{suffix} {_last(log.evaluations[field], show)}"
    _draw_points(axes, log.evaluations["epoch"], log.evaluations[field], palette.vermilion, style, validation)


def _draw_series(axes: Axes, x: Curve, y: Curve, colour: str, style: str, label: str) -> None:
    """A line of many values: pale, with their moving mean on top."""
    x, y = x[np.isfinite(y)], _known(y)
    smooth = _smooth(y)
    if smooth is not y:
        axes.plot(x, y, color=colour, alpha=0.22, linewidth=0.8)
    axes.plot(x, smooth, color=colour, linestyle=style, label=label)


def _draw_points(axes: Axes, x: Curve, y: Curve, colour: str, style: str, label: str) -> None:
    """A line of few values, each with a marker, so that a single value is visible too."""
    axes.plot(x, y, color=colour, linestyle=style, marker="o", markersize=3, label=label)


def _smooth(values: Curve) -> Curve:
    """A centred moving mean, its window cut off at the ends; short curves stay as they are."""
    if len(values) < SMOOTHED_FROM:
        return values
    window = np.ones(len(values) // SMOOTHED_PIECES | 1)
    smooth: Curve = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    return smooth


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol="\u00a0%"))


def _ends(log: TrainingLog, field: str, show: Callable[[float], str]) -> str:
    training, validation = _last(_smooth(_known(log.steps[field])), show), _last(log.evaluations[field], show)
    return f"training ends at {training}, validation at {validation}"


def _last(values: Curve, show: Callable[[float], str]) -> str:
    known = _known(values)
    return show(float(known[-1])) if len(known) else "no value"


def _known(values: Curve) -> Curve:
    known: Curve = values[np.isfinite(values)]
    return known


def _plain(value: float) -> str:
    return f"{value:.3f}"
