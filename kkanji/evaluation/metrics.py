"""Exact measures of a classifier, from the prediction of every evaluated image.

They are counted on the device of the predictions; only one table with a row for each class is copied to the host.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kkanji.evaluation.calibration import calibrate
from kkanji.evaluation.predictions import Predictions
from kkanji.variants import family_numbers

PER_CLASS = ("precision", "recall", "f1")
"""Measures of one class, each averaged in two ways: macro and weighted."""
MEASURES = (
    "loss",
    "top1",
    "top1_family",
    "top5",
    "balanced_accuracy",
    *(f"{name}_macro" for name in PER_CLASS),
    *(f"{name}_weighted" for name in PER_CLASS),
    "calibration_error",
)
"""The measures in the result of `summarise`, which also has the numbers of images and classes, and the bins."""
# Bins by a class's number of training originals: those of the published figures (cgn-shinkirou/kkanji, 2022), with the
# gaps between them closed.
BINS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 150), (151, None))
UNTRAINED = (0, 0)  # a bin of its own, only listed if the split has images of classes without a training image
NORMAL_QUANTILE = 1.959964  # 97.5 %, so that the two tails together leave out 5 %


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCounts:
    """Counts for each class, from which every measure but calibration follows. All arrays are [classes]."""

    images: NDArray[np.int64]
    """Evaluated images of the class."""
    right: NDArray[np.int64]
    """Images of the class that were predicted as it."""
    right_family: NDArray[np.int64]
    """Images of the class that were predicted as it or another form of its character."""
    among_top: NDArray[np.int64]
    """Images of the class that have it among their five most probable classes."""
    predicted: NDArray[np.int64]
    """Images of any class that were predicted as this one."""
    loss: NDArray[np.float64]
    """Cross-entropy in nats, summed over the images of the class."""


def count_by_class(predictions: Predictions, families: NDArray[np.int64]) -> ClassCounts:
    """Count on the device of the predictions, and copy the counts to the host at once.

    families: number of each class's family, [classes].
    """
    classes, label, first = len(families), predictions.label, predictions.predicted[:, 0]
    family = torch.from_numpy(families).to(label.device)
    columns = [
        label.bincount(minlength=classes),
        label[~predictions.wrong()].bincount(minlength=classes),
        label[family[first] == family[label]].bincount(minlength=classes),
        label[predictions.among_top()].bincount(minlength=classes),
        first.bincount(minlength=classes),
        label.bincount(_losses(predictions), minlength=classes),
    ]
    table = torch.stack([column.double() for column in columns]).cpu().numpy()
    images, right, right_family, among_top, predicted, loss = table
    return ClassCounts(
        images=images.astype(np.int64),  # counts below 2 ** 53 are exact in float64
        right=right.astype(np.int64),
        right_family=right_family.astype(np.int64),
        among_top=among_top.astype(np.int64),
        predicted=predicted.astype(np.int64),
        loss=loss,
    )


def summarise(
    predictions: Predictions, training_originals: NDArray[np.int64], characters: Sequence[str]
) -> dict[str, Any]:
    """All measures as plain numbers: MEASURES, counts and bins. Rates are fractions from 0 to 1.

    training_originals: number of training originals of each class, [classes].
    characters: the character of each class. `top1_family` also counts a prediction of another form of the character as
    correct (see kkanji/variants.py).

    As in scikit-learn, macro averages count each class once that has an image or is predicted: without an image its
    recall is 0, and if it is never predicted its precision is 0. `balanced_accuracy` is the mean recall of the
    `evaluated_classes`, those with an image.
    """
    counts = count_by_class(predictions, family_numbers(characters))
    images = int(counts.images.sum())
    return {
        "images": images,
        "evaluated_classes": int((counts.images > 0).sum()),
        "loss": float(counts.loss.sum() / images),
        "top1": float(counts.right.sum() / images),
        "top1_family": float(counts.right_family.sum() / images),
        "top5": float(counts.among_top.sum() / images),
        **_per_class_averages(counts),
        "calibration_error": calibrate(predictions).error,
        "bins": _bins(counts, training_originals),
    }


def interval(fraction: float, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of a fraction that was measured on this number of images.

    Wilson's score interval (Wilson 1927), which holds near 0 and 1 and for few images too.
    """
    square = NORMAL_QUANTILE**2 / images
    centre = (fraction + square / 2) / (1 + square)
    half = math.sqrt(max(0.0, fraction * (1 - fraction)) * square + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def _losses(predictions: Predictions) -> Tensor:
    """Cross-entropy in nats, float64 [N]. A probability that underflowed counts as the smallest float32."""
    smallest = torch.finfo(torch.float32).tiny
    return -predictions.label_probability.clamp(min=smallest).double().log()


def _per_class_averages(counts: ClassCounts) -> dict[str, float]:
    """Averages over the classes that occur: macro counts every class once, weighted by its images."""
    occurs = counts.images + counts.predicted > 0
    images, predicted, right = counts.images[occurs], counts.predicted[occurs], counts.right[occurs]
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(images, 1)
    f1 = 2 * right / (images + predicted)
    averages = {"balanced_accuracy": float(recall[images > 0].mean())}
    for name, values in zip(PER_CLASS, (precision, recall, f1), strict=True):
        averages[f"{name}_macro"] = float(values.mean())
        averages[f"{name}_weighted"] = float((values * images).sum() / images.sum())
    return averages


def _bins(counts: ClassCounts, training_originals: NDArray[np.int64]) -> list[dict[str, Any]]:
    bins = [_bin(counts, training_originals, low, high) for low, high in (UNTRAINED, *BINS)]
    return bins if bins[0]["images"] else bins[1:]


def _bin(counts: ClassCounts, training_originals: NDArray[np.int64], low: int, high: int | None) -> dict[str, Any]:
    """Measures of the images of classes with low..high training originals."""
    inside = training_originals >= low
    if high is not None:
        inside &= training_originals <= high
    images = int(counts.images[inside].sum())
    sums = {"top1": counts.right, "top1_family": counts.right_family, "top5": counts.among_top, "loss": counts.loss}
    return {
        "training_images": _bin_name(low, high),
        "low": low,
        "high": high,
        "classes": int((counts.images[inside] > 0).sum()),
        "images": images,
        **{name: float(values[inside].sum() / images) if images else None for name, values in sums.items()},
    }


def _bin_name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"
