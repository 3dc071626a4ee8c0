"""Which characters are taken for which: the confusion matrix, of which only the entries that occur are kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kkanji.evaluation.predictions import Predictions


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


def most_confused(predictions: Predictions, *, limit: int, examples: int) -> tuple[Confusion, ...]:
    """The pairs (true, predicted) that occur most; of equally frequent ones the most confident come first."""
    rows = predictions.wrong().nonzero()[:, 0]
    pairs = torch.stack([predictions.label[rows], predictions.predicted[rows, 0]], dim=1)
    pairs, index, counts = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    confidence = index.bincount(predictions.probability[rows, 0].double(), minlength=len(pairs)) / counts
    order = confidence.argsort(descending=True, stable=True)
    order = order[counts[order].argsort(descending=True, stable=True)]
    return tuple(_confusion(predictions, rows[index == pair], examples) for pair in order[:limit])


def _confusion(predictions: Predictions, rows: Tensor, examples: int) -> Confusion:
    """Sum up the misreadings in the rows, all of one class read as one other."""
    label, predicted = predictions.label, predictions.predicted[:, 0]
    true, rival = int(label[rows[0]]), int(predicted[rows[0]])
    most_confident = rows[predictions.probability[rows, 0].argsort(descending=True, stable=True)]
    return Confusion(
        true=true,
        predicted=rival,
        count=len(rows),
        true_images=int((label == true).sum()),
        reverse_count=int(((label == rival) & (predicted == true)).sum()),
        probability=float(predictions.probability[rows, 0].double().mean()),
        label_probability=float(predictions.label_probability[rows].double().mean()),
        examples=tuple(most_confident[:examples].tolist()),
    )


def lowest_recall(predictions: Predictions, *, classes: int, limit: int, least_images: int) -> tuple[ClassRecall, ...]:
    """The classes that are recognised least, those with too few images left out; of equals the larger comes first."""
    images = predictions.label.bincount(minlength=classes)
    right = predictions.label[~predictions.wrong()].bincount(minlength=classes)
    eligible = ((images >= least_images) & (right < images)).nonzero()[:, 0]
    eligible = eligible[images[eligible].argsort(descending=True, stable=True)]
    order = (right[eligible] / images[eligible]).argsort(stable=True)
    return tuple(_class_recall(predictions, int(label)) for label in eligible[order][:limit])


def _class_recall(predictions: Predictions, label: int) -> ClassRecall:
    """Look closely at a class that was misread at least once."""
    readings = predictions.predicted[predictions.label == label, 0]
    rivals, counts = readings[readings != label].unique(return_counts=True)
    most = counts.argmax()
    return ClassRecall(
        label=label,
        images=len(readings),
        right=int((readings == label).sum()),
        rival=int(rivals[most]),
        rival_count=int(counts[most]),
    )
