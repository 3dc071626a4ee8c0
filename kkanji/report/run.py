"""Reads and checks the files that a report is made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kkanji.checkpoint.lineage import Independence, compared_disjoint, independence
from kkanji.config import read_options
from kkanji.evaluation.calibration import Temperature
from kkanji.evaluation.metrics import MEASURES
from kkanji.evaluation.predictions import Predictions, load_predictions
from kkanji.report.log import TrainingLog, read_log
from shards.errors import InputError
from shards.json_reading import field, number, read_json

MAKERS = {
    "config.json": "kkanji train",
    "log.jsonl": "kkanji train",
    "evaluation.json": "kkanji evaluate",
    "predictions.npz": "kkanji evaluate",
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The shard set that was trained on."""

    name: str
    licence: str
    lineage: str
    classes: int
    train_images: int
    description: Mapping[str, Any]
    """Everything that the run recorded about the set, including the fields above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Classes with a number of training originals between two bounds."""

    training_images: str
    """The bounds as text, `2-5`."""
    classes: int
    images: int
    top1: float
    """NaN without an image, as top5."""
    top5: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The content of `evaluation.json`."""

    split: str
    images: int
    checkpoint: str
    lineage: str
    data: str
    """Identity of the evaluated set."""
    disjoint: bool
    """Whether its originals were compared with all training originals and none was in common."""
    views: int
    """Number of shifted views of each image over which probabilities were averaged."""
    metrics: Mapping[str, float]
    """MEASURES by name; rates are fractions from 0 to 1."""
    bins: tuple[Bin, ...]
    without_images: tuple[str, ...]
    """Classes without an image in the split; averages exclude them."""
    without_training: tuple[str, ...]
    """Classes without a training image."""
    temperature: Mapping[str, float] | None
    """Fields of `kkanji.evaluation.calibration.Temperature`; None if none was fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The content of a run's folder."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Data
    log: TrainingLog
    evaluation: Evaluation
    predictions: Predictions

    def independence(self) -> Independence:
        """Whether the evaluated images are disjoint from the training images."""
        evaluated = {
            "split": self.evaluation.split,
            "lineage": self.evaluation.lineage,
            "data": self.evaluation.data,
            "disjoint": self.evaluation.disjoint,
        }
        return independence(self.data.description, evaluated)


def read_run(folder: Path, *, characters: Sequence[str], training_counts: NDArray[np.int64]) -> Run:
    """Read a run's folder. Raises InputError naming the file that is missing or wrong and the command that makes it."""
    for name, maker in MAKERS.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; make it with `{maker}`")
    config = _read_object(folder / "config.json")
    run = Run(
        name=folder.resolve().name,
        config=read_options(_get(config, "config", dict, folder / "config.json")),
        environment=_get(config, "environment", dict, folder / "config.json"),
        data=_read_data(_get(config, "data", dict, folder / "config.json"), folder / "config.json"),
        log=read_log(folder / "log.jsonl"),
        evaluation=_read_evaluation(folder / "evaluation.json"),
        predictions=load_predictions(folder / "predictions.npz"),
    )
    _check(run, folder, len(characters), len(training_counts))
    return run


def _check(run: Run, folder: Path, characters: int, counts: int) -> None:
    """All files must describe the same classes and the same images."""
    if not run.data.classes == characters == counts:
        raise InputError(
            f"{folder / 'config.json'}: {run.data.classes} classes, but the class map has {characters} characters and "
            f"{counts} training counts; give the report the data set that the run was trained on"
        )
    images = len(run.predictions)
    if images != run.evaluation.images:
        raise _bad(folder / "predictions.npz", f"{images} images, but {run.evaluation.images} in evaluation.json")
    named = (run.predictions.label, run.predictions.predicted[:, 0])
    if min(part.min() for part in named) < 0 or max(part.max() for part in named) >= characters:
        raise _bad(folder / "predictions.npz", f"a class outside of 0 to {characters - 1}")


def _read_data(data: Mapping[str, Any], path: Path) -> Data:
    return Data(
        name=_get(data, "name", str, path),
        licence=_get(data, "licence", str, path),
        lineage=_get(data, "lineage", str, path),
        classes=_get(data, "classes", int, path),
        train_images=_get(data, "train_images", int, path),
        description=data,
    )


def _read_evaluation(path: Path) -> Evaluation:
    record = _read_object(path)
    return Evaluation(
        split=_get(record, "split", str, path),
        images=_get(record, "images", int, path),
        checkpoint=_get(record, "checkpoint", str, path),
        lineage=_get(record, "lineage", str, path),
        data=_get(record, "data", str, path),
        disjoint=compared_disjoint(record),
        views=_get(record, "tta", int, path),
        metrics={name: _number(record, name, path) for name in MEASURES},
        bins=tuple(_read_bin(entry, path) for entry in _get(record, "bins", list, path)),
        without_images=tuple(map(str, _get(record, "without_images", list, path))),
        without_training=tuple(map(str, _get(record, "without_training", list, path))),
        temperature=_read_temperature(record, path),
    )


def _read_temperature(record: Mapping[str, Any], path: Path) -> dict[str, float] | None:
    if record.get("temperature") is None:
        return None
    fit = _get(record, "temperature", dict, path)
    return {each.name: _number(fit, each.name, path) for each in fields(Temperature)}


def _read_bin(entry: object, path: Path) -> Bin:
    if not isinstance(entry, dict):
        raise _bad(path, f"a bin is {entry!r}, expected an object")
    images = _get(entry, "images", int, path)
    return Bin(
        training_images=_get(entry, "training_images", str, path),
        classes=_get(entry, "classes", int, path),
        images=images,
        top1=_number(entry, "top1", path) if images else math.nan,
        top5=_number(entry, "top5", path) if images else math.nan,
    )


def _read_object(path: Path) -> dict[str, Any]:
    return read_json(path, remedy=_remedy(path))


def _get(record: Mapping[str, Any], key: str, kind: type[T], path: Path) -> T:
    try:
        return field(record, key, kind)
    except ValueError as error:
        raise _bad(path, str(error)) from error


def _number(record: Mapping[str, Any], key: str, path: Path) -> float:
    try:
        return number(record, key)
    except ValueError as error:
        raise _bad(path, str(error)) from error


def _bad(path: Path, found: str) -> InputError:
    return InputError(f"{path}: {found}; {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"recreate it with `{MAKERS[path.name]}`"
