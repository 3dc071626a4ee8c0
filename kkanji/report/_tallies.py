"""Counting over predictions: confused pairs, recall by class, calibration, intervals. Pure functions of arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kkanji.report._run import Predictions

CALIBRATION_BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599, so that the error compares with the literature
NORMAL_QUANTILE = 1.959964  # 97.5 %: both sides together leave out 5 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """One class read as another."""

    true: int
    predicted: int
    count: int
    """Images of the true class that were read so."""
    true_images: int
    """Images of the true class in the split."""
    reverse_count: int
    """Images of the predicted class that were read as the true one."""
    probability: float
    """What the model gave its wrong reading, mean over the images."""
    label_probability: float
    """What it gave the right reading, mean over the images."""
    examples: tuple[int, ...]
    """Rows of the predictions, the most confident mistakes first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRecall:
    """How often a class is recognised."""

    label: int
    images: int
    right: int
    rival: int
    """The class it is most often read as when it is misread."""
    rival_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What is left when only readings of at least some probability are accepted."""

    probability: float
    images: int
    share: float
    """Of all images."""
    accuracy: float | None
    """Of the accepted readings; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Stated confidence against accuracy, in bins of equal width."""

    edges: NDArray[np.float64]
    """[bins + 1]"""
    images: NDArray[np.int64]
    """[bins]"""
    confidence: NDArray[np.float64]
    """[bins], mean probability of the first reading; NaN in an empty bin."""
    accuracy: NDArray[np.float64]
    """[bins], NaN in an empty bin."""
    error: float
    """Expected calibration error: the mean distance of the two, weighted by images."""


def most_confused(predictions: Predictions, *, limit: int, examples: int) -> tuple[Confusion, ...]:
    """The pairs (true, predicted) that occur most; of equally frequent ones the most confident come first."""
    rows = np.flatnonzero(predictions.wrong())
    pairs = np.stack([predictions.label[rows], predictions.predicted[rows, 0]], axis=1)
    pairs, index, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    confidence = np.bincount(index, weights=predictions.probability[rows, 0], minlength=len(pairs)) / counts
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -confidence, -counts))[:limit]
    return tuple(_confusion(predictions, rows[index == pair], examples) for pair in order)


def _confusion(predictions: Predictions, rows: NDArray[np.intp], examples: int) -> Confusion:
    """Sum up the misreadings in the rows, all of one class read as one other."""
    label, predicted = predictions.label, predictions.predicted[:, 0]
    true, rival = int(label[rows[0]]), int(predicted[rows[0]])
    most_confident = rows[np.argsort(-predictions.probability[rows, 0], kind="stable")]
    return Confusion(
        true=true,
        predicted=rival,
        count=len(rows),
        true_images=int(np.count_nonzero(label == true)),
        reverse_count=int(np.count_nonzero((label == rival) & (predicted == true))),
        probability=float(predictions.probability[rows, 0].mean()),
        label_probability=float(predictions.label_probability[rows].mean()),
        examples=tuple(int(row) for row in most_confident[:examples]),
    )


def lowest_recall(predictions: Predictions, *, classes: int, limit: int, least_images: int) -> tuple[ClassRecall, ...]:
    """The classes that are recognised least, those with too few images left out; of equals the larger comes first."""
    images = np.bincount(predictions.label, minlength=classes)
    right = np.bincount(predictions.label[~predictions.wrong()], minlength=classes)
    eligible = np.flatnonzero((images >= least_images) & (right < images))
    order = np.lexsort((eligible, -images[eligible], right[eligible] / images[eligible]))
    return tuple(_class_recall(predictions, int(label)) for label in eligible[order][:limit])


def _class_recall(predictions: Predictions, label: int) -> ClassRecall:
    """Look closely at a class that was misread at least once."""
    readings = predictions.predicted[predictions.label == label, 0]
    rivals, counts = np.unique(readings[readings != label], return_counts=True)
    return ClassRecall(
        label=label,
        images=len(readings),
        right=int(np.count_nonzero(readings == label)),
        rival=int(rivals[counts.argmax()]),
        rival_count=int(counts.max()),
    )


def calibrate(predictions: Predictions) -> Calibration:
    """Compare the probability of each first reading with how often such readings are right."""
    stated = predictions.probability[:, 0].astype(np.float64)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    index = np.clip(np.ceil(stated * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    images = np.bincount(index, minlength=CALIBRATION_BINS)
    sums = [np.bincount(index, weights=part, minlength=CALIBRATION_BINS) for part in (stated, ~predictions.wrong())]
    empty = np.full(CALIBRATION_BINS, np.nan)
    confidence, accuracy = (np.divide(part, images, out=empty.copy(), where=images > 0) for part in sums)
    error = np.nansum(images * np.abs(confidence - accuracy)) / images.sum()
    return Calibration(edges=edges, images=images, confidence=confidence, accuracy=accuracy, error=float(error))


def accept(predictions: Predictions, probabilities: Sequence[float]) -> tuple[Accepted, ...]:
    """For each least probability: how many readings reach it and how many of those are right."""
    return tuple(_accept(predictions, probability) for probability in probabilities)


def _accept(predictions: Predictions, probability: float) -> Accepted:
    accepted = predictions.probability[:, 0] >= probability
    images = int(accepted.sum())
    return Accepted(
        probability=probability,
        images=images,
        share=images / len(accepted),
        accuracy=float((~predictions.wrong())[accepted].mean()) if images else None,
    )


def interval(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in so many images (Wilson 1927: sound near 0 and 1 and for few images)."""
    square = NORMAL_QUANTILE**2 / images
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(max(0.0, share * (1 - share)) * square + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
