"""Exact measures of a classifier, counted on the device from every evaluated image's prediction.

The images are counted where their predictions are; what comes to the host is one table with a row for each class.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kkanji.evaluation.calibration import calibrate
from kkanji.evaluation.predictions import TOP as TOP
from kkanji.evaluation.predictions import Predictions

CLASS_MEASURES = ("precision", "recall", "f1")
AVERAGES = ("macro", "weighted")
"""Over classes alike, or by their numbers of images."""
AVERAGED = tuple(f"{measure}_{average}" for average in AVERAGES for measure in CLASS_MEASURES)
MEASURES = ("loss", "top1", "top5", "balanced_accuracy", *AVERAGED, "calibration_error")
"""What `summarise` gives beside the numbers of images and classes and the bins."""
# By training originals of a class; the bins of the published figures (cgn-shinkirou/kkanji, 2022), without gaps.
BINS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 150), (151, None))
NORMAL_QUANTILE = 1.959964  # 97.5 %: both sides together leave out 5 %
UNTRAINED = (0, 0)  # a bin of its own, listed where a split has images of classes that training has not


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCounts:
    """Evaluated images by class; every measure but calibration follows from these. All arrays: [classes]."""

    images: NDArray[np.int64]
    """Of the class."""
    right: NDArray[np.int64]
    """Of these, read as it."""
    among_top: NDArray[np.int64]
    """Of these, with the class among the first five readings."""
    predicted: NDArray[np.int64]
    """Images of any class that were read as it."""
    loss: NDArray[np.float64]
    """Cross-entropy in nats, summed over its images."""


def count_by_class(predictions: Predictions, classes: int) -> ClassCounts:
    """Count on the device of the predictions; one copy to the host."""
    label, first = predictions.label, predictions.predicted[:, 0]
    columns = [
        label.bincount(minlength=classes),
        label[~predictions.wrong()].bincount(minlength=classes),
        label[predictions.among_top()].bincount(minlength=classes),
        first.bincount(minlength=classes),
        label.bincount(_losses(predictions), minlength=classes),
    ]
    images, right, among_top, predicted, loss = torch.stack([column.double() for column in columns]).cpu().numpy()
    return ClassCounts(
        images=images.astype(np.int64),  # counts below 2 ** 53 are exact in float64
        right=right.astype(np.int64),
        among_top=among_top.astype(np.int64),
        predicted=predicted.astype(np.int64),
        loss=loss,
    )


def summarise(predictions: Predictions, training_originals: NDArray[np.int64]) -> dict[str, Any]:
    """All measures as plain numbers; fractions, not per cent. training_originals: [classes].

    Macro averages are over the classes that occur among the labels, `evaluated_classes` of them: a class without an
    image has no recall. One that is never predicted has precision 0.
    """
    counts = count_by_class(predictions, len(training_originals))
    images = int(counts.images.sum())
    return {
        "images": images,
        "evaluated_classes": int((counts.images > 0).sum()),
        "loss": float(counts.loss.sum() / images),
        "top1": float(counts.right.sum() / images),
        "top5": float(counts.among_top.sum() / images),
        **_per_class_averages(counts),
        "calibration_error": calibrate(predictions).error,
        "bins": _bins(counts, training_originals),
    }


def interval(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in so many images (Wilson 1927: sound near 0 and 1 and for few images)."""
    square = NORMAL_QUANTILE**2 / images
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(max(0.0, share * (1 - share)) * square + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _losses(predictions: Predictions) -> Tensor:
    """Cross-entropy float64 [N], natural logarithm; a probability below float32's range counts as its smallest."""
    smallest = torch.finfo(torch.float32).tiny
    return -predictions.label_probability.clamp(min=smallest).double().log()


def _per_class_averages(counts: ClassCounts) -> dict[str, float]:
    present = counts.images > 0
    images, predicted, right = counts.images[present], counts.predicted[present], counts.right[present]
    recall, precision = right / images, right / np.maximum(predicted, 1)
    f1 = 2 * right / (images + predicted)
    averages = {"balanced_accuracy": float(recall.mean())}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        averages[f"{name}_macro"] = float(values.mean())
        averages[f"{name}_weighted"] = float((values * images).sum() / images.sum())
    return averages


def _bins(counts: ClassCounts, training_originals: NDArray[np.int64]) -> list[dict[str, Any]]:
    bins = [_bin(counts, training_originals, low, high) for low, high in (UNTRAINED, *BINS)]
    return bins if bins[0]["images"] else bins[1:]


def _bin(counts: ClassCounts, training_originals: NDArray[np.int64], low: int, high: int | None) -> dict[str, Any]:
    """The images whose class has low..high training originals."""
    inside = (training_originals >= low) & (training_originals <= (np.iinfo(np.int64).max if high is None else high))
    images = int(counts.images[inside].sum())
    shares = {"top1": counts.right, "top5": counts.among_top, "loss": counts.loss}
    return {
        "training_images": _bin_name(low, high),
        "low": low,
        "high": high,
        "classes": int((counts.images[inside] > 0).sum()),
        "images": images,
        **{name: float(values[inside].sum() / images) if images else None for name, values in shares.items()},
    }


def _bin_name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"
