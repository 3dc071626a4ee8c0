"""Reads a run's `log.jsonl`, one JSON object a line, and drops what crashes and resumes left behind."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.json_reading import NotJson, parse_json

Curve = NDArray[np.float64]

STEP_FIELDS = ("step", "epoch", "loss", "top1", "top5", "lr", "images_per_s", "wait_fraction")
RENAMED = {"wait_share": "wait_fraction"}  # fields of logs that versions before 0.1.0 wrote
EVALUATION_FIELDS = (
    "step",
    "epoch",
    "loss",
    "top1",
    "top5",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
)
CURVE_SPLIT = "val"
AXES = ("step", "epoch")  # must be finite numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingLog:
    """The curves of a run, by name; a value that was not measured is NaN."""

    steps: Mapping[str, Curve]
    """STEP_FIELDS, in the order of the steps."""
    evaluations: Mapping[str, Curve]
    """EVALUATION_FIELDS on the validation split, in the order of the steps."""


def read_log(path: Path) -> TrainingLog:
    """Read a log. Raises InputError with the line number if a line is not one that the training loop writes."""
    steps: dict[int, list[float]] = {}
    evaluations: dict[int, list[float]] = {}
    for number, record in _records(path):
        if record.get("event") == "step":
            values = _values(record, STEP_FIELDS, path, number)
            _rewind(steps, evaluations, int(values[0]))
            steps[int(values[0])] = values
        elif record.get("event") == "evaluation" and record.get("split") == CURVE_SPLIT:
            values = _values(record, EVALUATION_FIELDS, path, number)
            evaluations[int(values[0])] = values
    return TrainingLog(steps=_curves(steps, STEP_FIELDS), evaluations=_curves(evaluations, EVALUATION_FIELDS))


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each line's number and object. What follows the last line feed is a line that a crash cut, unless it parses."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, _with_present_names(parse_json(line))
        except ValueError as error:
            if number == len(lines) and isinstance(error, NotJson):
                return
            raise InputError(_malformed(path, number, str(error))) from error


def _with_present_names(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return {RENAMED.get(name, name): value for name, value in record.items()}


def _values(record: Mapping[str, Any], fields: tuple[str, ...], path: Path, number: int) -> list[float]:
    try:
        return [_value(record[field], field) for field in fields]
    except (KeyError, TypeError, ValueError) as error:
        found = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(_malformed(path, number, found)) from error


def _value(value: object, field: str) -> float:
    if value is None and field not in AXES:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or (field in AXES and not math.isfinite(value)):
        raise ValueError(f"{field} is {value!r}, expected a number")
    return float(value)


def _rewind(steps: dict[int, list[float]], evaluations: dict[int, list[float]], step: int) -> None:
    """A step number that does not increase means a resume: forget what the lost attempt logged from there on."""
    if not steps or step > next(reversed(steps)):
        return
    for lost in [known for known in steps if known >= step]:
        del steps[lost]
    for lost in [known for known in evaluations if known > step]:
        del evaluations[lost]


def _curves(rows: dict[int, list[float]], fields: tuple[str, ...]) -> dict[str, Curve]:
    table = np.array([rows[step] for step in sorted(rows)], dtype=np.float64).reshape(-1, len(fields))
    return {field: table[:, column] for column, field in enumerate(fields)}


def _malformed(path: Path, number: int, found: str) -> str:
    return f"{path}, line {number}: {found}; remove or mend that line, or train again with `kkanji train`"
