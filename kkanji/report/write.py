"""Make a report: read the run, draw the charts, write the page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kkanji.evaluation.calibration import accept, calibrate
from kkanji.evaluation.confusion import lowest_recall, most_confused
from kkanji.evaluation.predictions import Predictions
from kkanji.report.cards import Card, ImagesOf, make_cards
from kkanji.report.charts import calibration_chart, rarity_chart, recall_chart
from kkanji.report.curves import CURVES, curve_charts
from kkanji.report.page import Content, Figure, page_html
from kkanji.report.run import Run, read_run
from kkanji.report.sheet import draw_sheet, sheet_png
from kkanji.report.style import DARK, LIGHT, Chart, chart_png
from shards.output.files import write_file

PAGE_NAME = "report.html"
PICTURE_FOLDER = "report"
SHEET_NAME = "confusions"
OPTIONAL_PICTURES = {SHEET_NAME, "lowest_recall", *CURVES}  # not every report has them
CONFUSIONS = 50
SHEET_CONFUSIONS = 20  # on the smaller sheet for TensorBoard
EXAMPLES = 3
ACCEPTED_FROM = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
WEAKEST = 30
WEAKEST_LEAST_IMAGES = 5  # with fewer, one unlucky image decides a recall


def write_report(
    run: Path, *, characters: Sequence[str], training_counts: NDArray[np.int64], images_of: ImagesOf
) -> Path:
    """Write `report.html` and `report/*.png` into a run's folder; return the page's path.

    characters: the character of each class. training_counts: int64 [classes], training originals of each.
    images_of: the images uint8 [n, 64, 64] at positions int64 [n] of the evaluated split.
    Raises: InputError naming the file of the run that is missing or wrong.
    """
    record = read_run(run, characters=characters, training_counts=training_counts)
    confusions = most_confused(record.predictions, limit=CONFUSIONS, examples=EXAMPLES)
    cards = make_cards(
        confusions, record.predictions, characters=characters, training_counts=training_counts, images_of=images_of
    )
    content = _draw(record, characters, training_counts, cards)
    _write_pictures(run / PICTURE_FOLDER, content)
    page = run / PAGE_NAME
    write_file(page, page_html(content))
    return page


def confusion_sheet(
    predictions: Predictions, *, characters: Sequence[str], training_counts: NDArray[np.int64], images_of: ImagesOf
) -> NDArray[np.uint8] | None:
    """The most frequent confusions as a picture uint8 [H, W, 3], None without any; arguments of `write_report`."""
    confusions = most_confused(predictions, limit=SHEET_CONFUSIONS, examples=EXAMPLES)
    cards = make_cards(
        confusions, predictions, characters=characters, training_counts=training_counts, images_of=images_of
    )
    return np.asarray(draw_sheet(cards)) if cards else None


def _draw(record: Run, characters: Sequence[str], training_counts: NDArray[np.int64], cards: Sequence[Card]) -> Content:
    weakest = lowest_recall(
        record.predictions, classes=len(characters), limit=WEAKEST, least_images=WEAKEST_LEAST_IMAGES
    )
    return Content(
        run=record,
        characters=characters,
        training_counts=training_counts,
        curves=[_figure(chart) for chart in curve_charts(record.log)],
        rarity=_figure(rarity_chart(record)),
        calibration=_figure(calibration_chart(calibrate(record.predictions))),
        accepted=accept(record.predictions, ACCEPTED_FROM),
        recall=_figure(recall_chart(weakest, characters)) if weakest else None,
        cards=cards,
        sheet_png=sheet_png(cards) if cards else None,
        weakest=weakest,
        weakest_least_images=WEAKEST_LEAST_IMAGES,
        evaluated_classes=len(record.predictions.label.unique()),
        misclassified_images=int(record.predictions.wrong().sum()),
    )


def _figure(chart: Chart) -> Figure:
    return Figure(chart=chart, light_png=chart_png(chart, LIGHT), dark_png=chart_png(chart, DARK))


def _write_pictures(folder: Path, content: Content) -> None:
    """Write the pictures. Remove those of an earlier report that this one lacks, and no other file."""
    folder.mkdir(exist_ok=True)
    figures = [*content.curves, content.rarity, content.calibration, *([content.recall] if content.recall else [])]
    pictures = {figure.chart.name: figure.light_png for figure in figures}
    if content.sheet_png:
        pictures[SHEET_NAME] = content.sheet_png
    for name, data in pictures.items():
        write_file(folder / f"{name}.png", data)
    for name in OPTIONAL_PICTURES - pictures.keys():
        (folder / f"{name}.png").unlink(missing_ok=True)
