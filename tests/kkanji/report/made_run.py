"""The folder of a small made-up run, and a parser for the page that its report is."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kkanji.evaluation.predictions import Predictions, load_predictions
from kkanji.report import write_report

CHARACTERS = tuple("\U00024fa3一二三人入大犬太土士己已巳日目白百千干于天来來")
IMAGES_EACH = 12
STEPS_PER_EPOCH = 100
PICTURES = {
    "loss",
    "accuracy",
    "precision_recall_f1",
    "learning_rate",
    "throughput",
    "waiting_for_data",
    "accuracy_by_training_images",
    "calibration",
    "lowest_recall",
    "confusions",
}
# (true, predicted, how often, probability), in the order the report must put them: by count, then by confidence.
CONFUSIONS = ((9, 10, 6, 0.6), (4, 5, 5, 0.9), (11, 12, 5, 0.7), (0, 7, 1, 0.5), (22, 23, 1, 0.4))
VOID_TAGS = {"meta", "img", "source", "br", "link"}
TAGS_WITHIN_WORDS = {"b", "code", "span"}
LOADING = {"src", "srcset", "href", "data", "poster", "action"}


class Page(HTMLParser):
    """What the tests want to know of an HTML file; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._separate(tag)
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._separate(tag)
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data

    def _separate(self, tag: str) -> None:
        if tag not in TAGS_WITHIN_WORDS:
            self.words += " "

    def all(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each such tag."""
        return [attributes for found, attributes in self.tags if found == tag]

    @property
    def text(self) -> str:
        """The words with white space made single; a space that does not break is a space."""
        return " ".join(self.words.split())


@dataclass
class MadeRun:
    """A run's folder with made-up content, and what write_report needs beside it."""

    folder: Path
    characters: Sequence[str] = CHARACTERS
    asked: list[int] = field(default_factory=list)

    def write(self) -> Page:
        counts = np.arange(len(self.characters), dtype=np.int64) * 7 + 1
        path = write_report(self.folder, characters=self.characters, training_counts=counts, images_of=self.images_of)
        assert path == self.folder / "report.html"
        return Page(path.read_text(encoding="utf-8"))

    def images_of(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.asked += positions.tolist()
        return np.stack([image_at(int(position)) for position in positions])

    def change(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Edit a JSON file of the run."""
        record = json.loads((self.folder / name).read_text())
        change(record)
        (self.folder / name).write_text(json.dumps(record))


def image_at(position: int) -> NDArray[np.uint8]:
    """An image that tells where it lies: its first row is the position's bytes."""
    image = np.full((64, 64), 128, np.uint8)
    image[0, :8] = np.frombuffer(np.int64(position).tobytes(), np.uint8)
    return image


def position_of(image: NDArray[np.uint8]) -> int:
    return int(np.frombuffer(image[0, :8].tobytes(), np.int64)[0])


def make_run(folder: Path, *, confusions: Sequence[tuple[int, int, int, float]] = CONFUSIONS) -> MadeRun:
    folder.mkdir(parents=True)
    predictions = make_predictions(confusions)
    save_predictions(folder, predictions)
    right = float((predictions["predicted"][:, 0] == predictions["label"]).mean())
    (folder / "config.json").write_text(json.dumps(make_config()))
    (folder / "evaluation.json").write_text(json.dumps(make_evaluation(len(predictions["label"]), right)))
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in make_log()))
    return MadeRun(folder)


def make_predictions(confusions: Sequence[tuple[int, int, int, float]]) -> dict[str, NDArray[Any]]:
    """Every class has as many images; positions run backwards so that a row is not taken for a position."""
    label = np.repeat(np.arange(len(CHARACTERS), dtype=np.int32), IMAGES_EACH)
    predicted = (label[:, None] + np.arange(5, dtype=np.int32)) % len(CHARACTERS)
    probability = np.tile(np.array([0.8, 0.1, 0.05, 0.03, 0.02], np.float32), (len(label), 1))
    for true, rival, count, confidence in confusions:
        rows = np.flatnonzero(label == true)[:count]
        predicted[rows] = [rival, true, *((rival + 1 + np.arange(3)) % len(CHARACTERS))]
        # The later images of a pair are the more confident mistakes; the mean stays.
        probability[rows, 0] = confidence + 0.01 * (np.arange(count) - (count - 1) / 2)
        probability[rows, 1] = 0.05
    right = (predicted == label[:, None]).argmax(axis=1)
    return {
        "position": np.arange(len(label), dtype=np.int64)[::-1] + 1000,
        "label": label,
        "predicted": predicted.astype(np.int32),
        "probability": probability,
        "label_probability": probability[np.arange(len(label)), right],
    }


def save_predictions(folder: Path, arrays: Any) -> None:
    np.savez(folder / "predictions.npz", **arrays)


def make_config() -> dict[str, Any]:
    return {
        "config": {"data": "sets/small", "model": "kkanji_b0", "batch_size": 32, "epochs": 4, "lr": 0.002},
        "environment": {"torch": "2.14.1", "commit": "0123abc", "device": "cpu", "cores": 2},
        "data": {
            "name": "Kuzushiji-Small",
            "licence": "made by `nobody`, CC0",
            "lineage": "known",
            "classes": len(CHARACTERS),
            "train_images": 3200,
            "val_images": 288,
            "identity": "ab" * 32,
        },
    }


def make_evaluation(images: int, top1: float) -> dict[str, Any]:
    macro = ("precision_macro", "recall_macro", "f1_macro")
    weighted = ("precision_weighted", "recall_weighted", "f1_weighted")
    measured = {"classes": 12, "images": 144, "top1": 0.9, "top5": 0.97, "loss": 0.4}
    nothing = {"classes": 0, "images": 0, "top1": None, "top5": None, "loss": None}
    return {
        "split": "val",
        "images": images,
        "classes": len(CHARACTERS),
        "checkpoint": "checkpoints/000400",
        "lineage": "known",
        "data": "ab" * 32,
        "tta": 1,
        "without_images": [],
        "without_training": [],
        "temperature": None,
        "loss": 0.31,
        "top1": top1,
        "top1_family": top1 + 1 / images,
        **dict.fromkeys(("top5", "balanced_accuracy", *macro, *weighted, "calibration_error"), 0.93),
        "bins": [
            {"training_images": "1", "low": 1, "high": 1, **measured},
            {"training_images": "2-5", "low": 2, "high": 5, **nothing},
            {"training_images": "151+", "low": 151, "high": None, **measured},
        ],
    }


def step_line(step: int, **changes: Any) -> str:
    epoch = step / STEPS_PER_EPOCH
    values = {"event": "step", "step": step, "samples": step * 32, "epoch": epoch, "loss": 3 / (1 + epoch)}
    values |= {"top1": 0.2 * epoch, "top5": 0.22 * epoch, "lr": 0.002, "images_per_s": 5000.0}
    return json.dumps(values | {"wait_fraction": 0.01, "seconds": step * 0.1} | changes)


def evaluation_line(step: int, **changes: Any) -> str:
    rates = dict.fromkeys(("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"), 0.5)
    rates |= dict.fromkeys(("precision_weighted", "recall_weighted", "f1_weighted"), 0.6)
    values = {"event": "evaluation", "split": "val", "step": step, "epoch": step / STEPS_PER_EPOCH, "loss": 0.9}
    values |= {"top1": 0.6, "top5": 0.8, "images": 288, "images_per_s": 9000.0, "seconds": 1.0}
    return json.dumps(values | rates | changes)


def make_log() -> list[str]:
    lines = [json.dumps({"event": "start", "anything": []})]
    for step in range(10, 4 * STEPS_PER_EPOCH + 1, 10):
        lines.append(step_line(step))
        if step % STEPS_PER_EPOCH == 0:
            lines.append(evaluation_line(step))
    return lines


def decode(uri: str) -> NDArray[np.uint8]:
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


def load(run: MadeRun) -> Predictions:
    return load_predictions(run.folder / "predictions.npz")
