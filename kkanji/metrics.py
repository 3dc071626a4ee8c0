"""Exact measures of a classifier, from every evaluated image's prediction."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP = 5
MEASURES = (
    "loss", "top1", "top5", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro",
    "precision_weighted", "recall_weighted", "f1_weighted",
)  # fmt: skip
"""What `summarise` gives beside the number of images and the bins."""
# By training originals of a class; the bins of the published figures (cgn-shinkirou/kkanji, 2022), without gaps.
BINS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 150), (151, None))


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What a model said about N images of a split, in the split's order."""

    labels: NDArray[np.int32]
    """[N]"""
    predicted: NDArray[np.int32]
    """[N, 5], most probable first; -1 where there are fewer than five classes."""
    probability: NDArray[np.float32]
    """[N, 5], of each of those."""
    label_probability: NDArray[np.float32]
    """[N], of the label."""

    def save(self, path: Path) -> None:
        """As `predictions.npz`, with the images' positions in the split."""
        position = np.arange(len(self.labels), dtype=np.int64)
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                position=position,
                label=self.labels,
                predicted=self.predicted,
                probability=self.probability,
                label_probability=self.label_probability,
            )


def summarise(predictions: Predictions, training_originals: NDArray[np.int64]) -> dict[str, Any]:
    """All measures as plain numbers; fractions, not per cent. training_originals: [classes].

    Macro averages are over the classes that occur among the labels; a class never predicted has precision 0.
    """
    labels, first = predictions.labels, predictions.predicted[:, 0]
    summary = {
        "images": len(labels),
        "loss": float(_losses(predictions).mean()),
        "top1": float((first == labels).mean()),
        "top5": float((predictions.predicted == labels[:, None]).any(axis=1).mean()),
        **_per_class_averages(labels, first, len(training_originals)),
    }
    return summary | {"bins": [_bin(predictions, training_originals, low, high) for low, high in BINS]}


def _losses(predictions: Predictions) -> NDArray[np.float64]:
    """Cross-entropy per image [N], natural logarithm; a probability below float32's range counts as its smallest."""
    smallest = np.finfo(np.float32).tiny
    return -np.log(np.maximum(predictions.label_probability, smallest).astype(np.float64))


def _per_class_averages(labels: NDArray[np.int32], predicted: NDArray[np.int32], classes: int) -> dict[str, float]:
    support = np.bincount(labels, minlength=classes)
    said = np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    present = support > 0
    support, said, right = support[present], said[present], right[present]
    recall, precision = right / support, right / np.maximum(said, 1)
    f1 = 2 * right / (support + said)
    averages = {"balanced_accuracy": float(recall.mean())}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        averages[f"{name}_macro"] = float(values.mean())
        averages[f"{name}_weighted"] = float((values * support).sum() / support.sum())
    return averages


def _bin(predictions: Predictions, training_originals: NDArray[np.int64], low: int, high: int | None) -> dict[str, Any]:
    """The images whose class has low..high training originals."""
    inside = (training_originals >= low) & (training_originals <= (high or np.iinfo(np.int64).max))
    chosen = inside[predictions.labels]
    labels, predicted = predictions.labels[chosen], predictions.predicted[chosen]
    result = {
        "training_images": _bin_name(low, high),
        "low": low,
        "high": high,
        "classes": len(np.unique(labels)),
        "images": int(chosen.sum()),
    }
    if not chosen.any():
        return result | {"top1": None, "top5": None, "loss": None}
    return result | {
        "top1": float((predicted[:, 0] == labels).mean()),
        "top5": float((predicted == labels[:, None]).any(axis=1).mean()),
        "loss": float(_losses(predictions)[chosen].mean()),
    }


def _bin_name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"
