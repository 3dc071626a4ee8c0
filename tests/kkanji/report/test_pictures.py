"""The charts and the sheet: as files, in the page, and legible."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from kkanji.evaluation.calibration import calibrate
from kkanji.report.charts import calibration_chart, rarity_chart
from kkanji.report.curves import curve_charts
from kkanji.report.run import read_run
from kkanji.report.style import LIGHT, draw_chart
from tests.kkanji.report.made_run import (
    CHARACTERS,
    PICTURES,
    MadeRun,
    Page,
    decode,
    evaluation_line,
    make_run,
    step_line,
)


@pytest.mark.usefixtures("page")
def test_the_pictures_are_png_files_large_enough_to_read(run: MadeRun) -> None:
    assert {path.name for path in (run.folder / "report").iterdir()} == {f"{name}.png" for name in PICTURES}
    for path in (run.folder / "report").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG" and image.width >= 800 and image.height >= 170


def test_every_picture_is_in_the_page(run: MadeRun, page: Page) -> None:
    embedded = {base64.b64decode(image["src"].split(",")[1]) for image in page.all("img")}
    for path in (run.folder / "report").iterdir():
        assert path.read_bytes() in embedded, path.name


def test_charts_have_a_version_for_dark_pages(page: Page) -> None:
    dark = page.all("source")
    assert len(dark) == len(PICTURES - {"confusions"})
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in dark)
    assert all(decode(source["srcset"])[0, 0, :3].max() < 64 for source in dark)


def test_the_same_run_gives_the_same_bytes_and_leaves_nothing_else(run: MadeRun, page: Page) -> None:
    before = (run.folder / "report.html").read_bytes()
    for name in ("confusions", "mine"):
        (run.folder / "report" / f"{name}.png").write_bytes(b"")
    assert run.write().text == page.text
    (run.folder / "report" / "mine.png").unlink()
    assert (run.folder / "report.html").read_bytes() == before
    assert {path.stem for path in (run.folder / "report").iterdir()} == PICTURES
    assert not list(run.folder.rglob("*.part*"))


def test_a_run_without_mistakes_and_without_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", confusions=())
    (run.folder / "log.jsonl").write_text("")
    text = run.write().text
    assert "Every image of the evaluated split was predicted correctly." in text
    assert "was predicted without a mistake" in text
    assert "The log of this run has no values." in text
    assert {path.stem for path in (run.folder / "report").iterdir()} == {"accuracy_by_training_images", "calibration"}


def legend_collisions(figure: Figure) -> list[str]:
    """What a figure's legends lie on or stick out of."""
    found = []
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
    for box in (legend.get_window_extent() for legend in legends):
        found += ["axes" for axes in figure.axes if axes.get_window_extent().overlaps(box)]
        for line in (line for axes in figure.axes for line in axes.lines):
            path = line.get_path().transformed(line.get_transform())
            found += [f"line {line.get_label()}"] if path.intersects_bbox(box, filled=False) else []
        found += [] if figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max) else ["the figure's edge"]
    return found


SHAPES: dict[str, Callable[[float], float]] = {
    "rises": lambda part: part,
    "falls": lambda part: 1 - part,
    "stays high": lambda _part: 0.99,
    "stays low": lambda _part: 0.01,
    "swings": lambda part: 0.5 + 0.5 * float(np.sin(40 * part)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_legends_lie_on_no_curve(tmp_path: Path, shape: str) -> None:
    run = make_run(tmp_path / "run")
    measures = ("loss", "top1", "top5", "precision_macro", "recall_macro", "f1_macro", "f1_weighted")
    values = {step: dict.fromkeys(measures, SHAPES[shape](step / 400)) for step in range(10, 401, 10)}
    lines = [line(step, **values[step]) for step in values for line in (step_line, evaluation_line)]
    (run.folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    counts = np.ones(len(CHARACTERS), np.int64)
    record = read_run(run.folder, characters=CHARACTERS, training_counts=counts)
    charts = [*curve_charts(record.log), rarity_chart(record), calibration_chart(calibrate(record.predictions))]
    figures = {chart.name: draw_chart(chart, LIGHT) for chart in charts}
    assert {name for name, figure in figures.items() if figure.legends} == {
        "loss",
        "accuracy",
        "precision_recall_f1",
        "accuracy_by_training_images",
    }
    assert {name: found for name, figure in figures.items() if (found := legend_collisions(figure))} == {}


def test_a_legend_among_the_curves_is_noticed() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], label="rises")
    axes.legend(loc="upper right")
    figure.draw_without_rendering()
    assert legend_collisions(figure) == ["axes", "line rises"]


def test_only_rows_with_images_are_in_the_chart_of_rare_and_frequent_characters(run: MadeRun, page: Page) -> None:
    record = read_run(run.folder, characters=CHARACTERS, training_counts=np.ones(len(CHARACTERS), np.int64))
    (axes,) = draw_chart(rarity_chart(record), LIGHT).axes
    labels = [label.get_text().splitlines()[0] for label in axes.get_yticklabels()]
    assert labels == ["1", "151+"]
    assert "2-5 0 0" in page.text  # the table beside it has all rows
