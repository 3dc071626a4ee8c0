"""The forms in which predictions are written: text, JSON Lines, CSV, and those of page_xml."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kkanji.inference import page_xml
from kkanji.inference.boxes import Box
from kkanji.inference.page_xml import Written, file_name
from shards.errors import printable

if TYPE_CHECKING:
    from kkanji.inference.predict import Guess, Prediction

CSV_HEAD = "file rank character label probability forms forms_probability unknown doubt error page".split()
BOX_HEAD = ("x", "y", "w", "h", "id")
BOM = "\ufeff"
"""Without it Excel takes a CSV file for one of its own code page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A form of the output."""

    entries: Callable[[Sequence["Prediction"], Written, bool], str]
    """The text of some predictions in a row. Further: what is written before them, and whether none follows."""
    head: str = ""
    """What comes before the first."""
    tail: str = ""
    """What comes after the last."""


def form(
    name: str, *, boxed: bool = False, ascii_only: bool = False, errors: bool = False, only: Path | None = None
) -> Form:
    """The form of this name. boxed: whether predictions have boxes. errors: whether text tells of failures.

    only: the file of all predictions; None if they are of several.
    """
    if name == "csv":
        head = csv_text([[*CSV_HEAD, *(BOX_HEAD if boxed else ())]])
        return Form(entries=lambda some, *_: csv_text(row for each in some for row in _rows(each)), head=head)
    if name == "json":
        return Form(entries=lambda some, *_: "".join(_json(each, ascii_only) for each in some))
    if name == "tei":
        return Form(entries=page_xml.tei, head=page_xml.tei_head(), tail=page_xml.TEI_TAIL)
    if name == "alto":
        return Form(entries=page_xml.alto, head=page_xml.alto_head(only), tail=page_xml.ALTO_TAIL)
    return Form(entries=lambda some, *_: "".join(_text(each) for each in some if errors or not each.error))


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _text(prediction: "Prediction") -> str:
    name = printable(file_name(prediction) if prediction.box is None else str(prediction.box))
    name += f", page {prediction.page}" if prediction.page else ""
    texts = [*map(_guess_text, prediction.guesses), *([f"[{prediction.doubt}]"] if prediction.doubt else [])]
    texts += [f"[error: {printable(prediction.error)}]"] if prediction.error else []
    return f"{name}  {'  '.join(texts)}\n"


def _guess_text(guess: "Guess") -> str:
    forms = f" ({guess.forms} {guess.forms_probability:.1%})" if guess.forms else ""
    return f"{guess.character} {guess.label} {guess.probability:.1%}{forms}"


def _json(prediction: "Prediction", ascii_only: bool) -> str:
    entry: dict[str, object] = {"file": file_name(prediction)}
    entry |= {"page": prediction.page} if prediction.page else {}
    entry |= _place(prediction.box)
    entry |= {"guesses": [asdict(each) for each in prediction.guesses]}
    entry |= {"unknown": prediction.unknown, "doubt": prediction.doubt}
    entry |= {"error": prediction.error} if prediction.error else {}
    return json.dumps(entry, ensure_ascii=ascii_only) + "\n"


def _place(box: Box | None) -> dict[str, object]:
    """A box in pixels, or in percent under another name."""
    if box is None:
        return {}
    place = {"percent" if box.percent else "box": [box.x, box.y, box.w, box.h]}
    return place | ({"id": box.id} if box.id else {})


def _rows(prediction: "Prediction") -> list[list[object]]:
    file, page, corners = file_name(prediction), prediction.page or "", _corners(prediction.box)
    if prediction.error:
        return [[file, 0, *[""] * (len(CSV_HEAD) - 4), prediction.error, page, *corners]]
    rest = (_decimal(prediction.unknown), prediction.doubt or "", "", page, *corners)
    return [[file, rank, *_reading(guess), *rest] for rank, guess in enumerate(prediction.guesses, start=1)]


def _corners(box: Box | None) -> list[str]:
    """The columns BOX_HEAD."""
    if box is None:
        return []
    return [*(f"{value:g}{'%' * box.percent}" for value in (box.x, box.y, box.w, box.h)), box.id]


def _reading(guess: "Guess") -> tuple[str, ...]:
    probability, sum_of_forms = _decimal(guess.probability), _decimal(guess.forms_probability)
    return guess.character, guess.label, probability, guess.forms, sum_of_forms


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
