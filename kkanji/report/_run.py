"""The files that a report is made from, read and checked; nothing here counts or draws."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kkanji.metrics import MEASURES, TOP
from kkanji.report._log import TrainingLog, read_log
from shards.errors import InputError

MAKERS = {
    "config.json": "launch/train.py",
    "log.jsonl": "launch/train.py",
    "evaluation.json": "launch/evaluate.py",
    "predictions.npz": "launch/evaluate.py",
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
    """Everything that the run recorded of it, the above included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The classes whose number of training originals lies between two bounds."""

    training_images: str
    """The bounds for people, `2-5`."""
    classes: int
    images: int
    top1: float | None
    """None without an image, as top5."""
    top5: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What `evaluation.json` says of a whole split."""

    split: str
    images: int
    checkpoint: str
    lineage: str
    metrics: Mapping[str, float]
    """MEASURES by name; shares are fractions."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The model's readings of N images of the evaluated split."""

    position: NDArray[np.int64]
    """[N], where the image lies in the split."""
    label: NDArray[np.int32]
    """[N], the true class."""
    predicted: NDArray[np.int32]
    """[N, 5], the classes it holds most probable, best first; -1 where there are fewer than five."""
    probability: NDArray[np.float32]
    """[N, 5], of the predicted classes."""
    label_probability: NDArray[np.float32]
    """[N], of the true class."""

    def wrong(self) -> NDArray[np.bool_]:
        """[N], whether the first reading is not the true class."""
        wrong: NDArray[np.bool_] = self.predicted[:, 0] != self.label
        return wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything a run's folder says."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Data
    log: TrainingLog
    evaluation: Evaluation
    predictions: Predictions

    def independence_is_proven(self) -> bool:
        """Whether every image's original is known, in training and in the evaluated split."""
        return self.data.lineage == "known" and self.evaluation.lineage == "known"


def read_run(folder: Path, *, characters: Sequence[str], training_counts: NDArray[np.int64]) -> Run:
    """Read a run's folder. Raises InputError naming the file that is missing or wrong and the command that makes it."""
    for name, maker in MAKERS.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; make it with `{maker}`")
    config = _read_object(folder / "config.json")
    run = Run(
        name=folder.resolve().name,
        config=_get(config, "config", dict, folder / "config.json"),
        environment=_get(config, "environment", dict, folder / "config.json"),
        data=_read_data(_get(config, "data", dict, folder / "config.json"), folder / "config.json"),
        log=read_log(folder / "log.jsonl"),
        evaluation=_read_evaluation(folder / "evaluation.json"),
        predictions=_read_predictions(folder / "predictions.npz"),
    )
    _check(run, folder, len(characters), len(training_counts))
    return run


def _check(run: Run, folder: Path, characters: int, counts: int) -> None:
    """The files must speak of the same classes and the same images."""
    if not run.data.classes == characters == counts:
        raise InputError(
            f"{folder / 'config.json'}: {run.data.classes} classes, but the class map has {characters} characters and "
            f"{counts} training counts; give the report the data set that the run was trained on"
        )
    images = len(run.predictions.label)
    if images != run.evaluation.images:
        raise _bad(folder / "predictions.npz", f"{images} images, but {run.evaluation.images} in evaluation.json")
    if images == 0:
        raise _bad(folder / "predictions.npz", "no image in it")
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
        metrics={name: _number(record, name, path) for name in MEASURES},
        bins=tuple(_read_bin(entry, path) for entry in _get(record, "bins", list, path)),
    )


def _read_bin(entry: object, path: Path) -> Bin:
    if not isinstance(entry, dict):
        raise _bad(path, f"a bin is {entry!r}, expected an object")
    images = _get(entry, "images", int, path)
    return Bin(
        training_images=_get(entry, "training_images", str, path),
        classes=_get(entry, "classes", int, path),
        images=images,
        top1=_number(entry, "top1", path) if images else None,
        top5=_number(entry, "top5", path) if images else None,
    )


def _read_predictions(path: Path) -> Predictions:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            predictions = Predictions(
                position=arrays["position"].astype(np.int64),
                label=arrays["label"].astype(np.int32),
                predicted=arrays["predicted"].astype(np.int32),
                probability=arrays["probability"].astype(np.float32),
                label_probability=arrays["label_probability"].astype(np.float32),
            )
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _bad(path, str(error)) from error
    _check_shapes(predictions, path)
    return predictions


def _check_shapes(predictions: Predictions, path: Path) -> None:
    count = len(predictions.label)
    flat = (predictions.position, predictions.label, predictions.label_probability)
    wide = (predictions.predicted, predictions.probability)
    if any(part.shape != (count,) for part in flat) or any(part.shape != (count, TOP) for part in wide):
        shapes = ", ".join(str(part.shape) for part in (*flat, *wide))
        raise _bad(path, f"arrays of shapes {shapes}, expected (N,) three times and (N, {TOP}) twice")
    if not all(np.isfinite(part).all() for part in (predictions.probability[:, 0], predictions.label_probability)):
        raise _bad(path, "a probability that is not a number")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise _bad(path, f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise _bad(path, f"{type(record).__name__}, expected a JSON object")
    return record


def _get(record: Mapping[str, Any], key: str, kind: type[T], path: Path) -> T:
    value = record.get(key)
    if not isinstance(value, kind):
        raise _bad(path, f"{key} is {value!r}, expected {kind.__name__}" if key in record else f"no field {key!r}")
    return value


def _number(record: Mapping[str, Any], key: str, path: Path) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(path, f"{key} is {value!r}, expected a number" if key in record else f"no field {key!r}")
    return float(value)


def _bad(path: Path, found: str) -> InputError:
    return InputError(f"{path}: {found}; make it anew with `{MAKERS[path.name]}`")
