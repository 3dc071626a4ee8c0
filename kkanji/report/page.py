"""The report as one HTML file that needs nothing else: charts, glyphs and handwriting are embedded."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from kkanji.evaluation.calibration import Accepted
from kkanji.evaluation.confusion import ClassRecall
from kkanji.evaluation.metrics import interval
from kkanji.glyphs import code_point, font_subset, has_glyph, render_glyph
from kkanji.report import published
from kkanji.report.cards import Card
from kkanji.report.run import Run
from kkanji.report.style import Chart
from kkanji.report.text import code_spans, percent, quantity
from kkanji.wording import counted, training_images

GLYPH_SIZE = 80
FIRST_EAST_ASIAN = "\u2e80"  # where the radicals, kana and kanji begin


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A rendered chart, for a light and for a dark page."""

    chart: Chart
    light_png: bytes
    dark_png: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything that the page shows."""

    run: Run
    characters: Sequence[str]
    training_counts: NDArray[np.int64]
    curves: Sequence[Figure]
    rarity: Figure
    calibration: Figure
    accepted: Sequence[Accepted]
    recall: Figure | None
    """None if every class with enough images was predicted without a mistake."""
    cards: Sequence[Card]
    sheet_png: bytes | None
    weakest: Sequence[ClassRecall]
    weakest_least_images: int
    evaluated_classes: int
    """Number of classes with images in the evaluated split."""
    misclassified_images: int


def page_html(content: Content) -> str:
    """Write the page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=percent, quantity=quantity, counted=counted, code_point=code_point, has_glyph=has_glyph
    )
    environment.filters.update(training_images=training_images)
    environment.filters.update(glyph=_glyph, image=_image, png=_png, code_spans=code_spans)
    template = environment.from_string(_resource("template.html"))
    page = template.render(
        content=content,
        run=content.run,
        style=_resource("style.css"),
        font=_data("font/woff", font_subset(_shown(content))),
        anchors=published if published.applies(content.run.data.classes) else None,
        interval=interval,
        options=_rows(content.run.config),
        environment_rows=_rows(content.run.environment),
        data_rows=_rows(content.run.data.description),
    )
    return page.lstrip()


def _shown(content: Content) -> list[str]:
    """The Chinese and Japanese characters in the text of the page."""
    in_cards = {part for card in content.cards for part in card.true + card.predicted}
    in_table = {part for entry in content.weakest for part in content.characters[entry.label]}
    rivals = {part for entry in content.weakest for part in content.characters[entry.rival]}
    in_words = {part for part in f"{content.run.data.description} {content.run.config}" if part >= FIRST_EAST_ASIAN}
    in_template = set("來来")
    return sorted(in_cards | in_table | rivals | in_words | in_template)


def _resource(name: str) -> str:
    return files("kkanji.report").joinpath(name).read_text(encoding="utf-8")


def _rows(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """An object as (name, value) pairs, nested names joined by dots."""
    rows: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "–" if value is None else str(value)))
    return rows


@lru_cache(maxsize=1024)
def _glyph(character: str) -> str:
    return _image(render_glyph(character, GLYPH_SIZE))


def _image(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return _png(buffer.getvalue())


def _png(data: bytes) -> str:
    return _data("image/png", data)


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
