"""Which characters are mistaken for which: the entries of the confusion matrix that occur, without the matrix.

With 3,832 classes the matrix would have 14.7 million entries, nearly all of them zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kkanji.evaluation.predictions import Predictions


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """One class predicted as another."""

    true: int
    """Class number of the true class."""
    predicted: int
    """Class number of the predicted class."""
    count: int
    """Images of the true class that were predicted as the other."""
    true_images: int
    """Images of the true class in the split."""
    reverse_count: int
    """Images of the predicted class that were predicted as the true class."""
    probability: float
    """Mean probability of the wrong class over these images."""
    label_probability: float
    """Mean probability of the true class over these images."""
    examples: tuple[int, ...]
    """Row numbers of some of these predictions, the most confident first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRecall:
    """How often a class is recognised."""

    label: int
    """Class number."""
    images: int
    """Images of the class in the split."""
    right: int
    """Images of the class that were predicted as it."""
    rival: int
    """Number of the class that it is most often mistaken for."""
    rival_count: int
    """Images of the class that were predicted as the rival."""


def most_confused(predictions: Predictions, *, limit: int, examples: int) -> tuple[Confusion, ...]:
    """The most frequent pairs (true, predicted); among equally frequent pairs the most confident come first.

    limit: number of pairs. examples: number of example rows for each pair.
    """
    rows = predictions.wrong().nonzero()[:, 0]
    pairs = torch.stack([predictions.label[rows], predictions.predicted[rows, 0]], dim=1)
    pairs, index, counts = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    confidence = index.bincount(predictions.probability[rows, 0].double(), minlength=len(pairs)) / counts
    # The second sort is stable, so pairs of equal count stay in the order of their confidence.
    order = confidence.argsort(descending=True, stable=True)
    order = order[counts[order].argsort(descending=True, stable=True)]
    return tuple(_confusion(predictions, rows[index == pair], examples) for pair in order[:limit])


def _confusion(predictions: Predictions, rows: Tensor, examples: int) -> Confusion:
    """Summarise these rows, which all have one true class and one predicted class."""
    label = predictions.label
    predicted = predictions.predicted[:, 0]
    true = int(label[rows[0]])
    rival = int(predicted[rows[0]])
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
    """The classes of lowest recall; among classes of equal recall the larger come first.

    Classes with fewer than `least_images` images are left out, and so are those without a mistake.
    """
    images = predictions.label.bincount(minlength=classes)
    right = predictions.label[~predictions.wrong()].bincount(minlength=classes)
    eligible = ((images >= least_images) & (right < images)).nonzero()[:, 0]
    eligible = eligible[images[eligible].argsort(descending=True, stable=True)]
    order = (right[eligible] / images[eligible]).argsort(stable=True)
    return tuple(_class_recall(predictions, int(label)) for label in eligible[order][:limit])


def _class_recall(predictions: Predictions, label: int) -> ClassRecall:
    """Recall of a class that has at least one wrong prediction."""
    predicted = predictions.predicted[predictions.label == label, 0]
    rivals, counts = predicted[predicted != label].unique(return_counts=True)
    most = counts.argmax()
    return ClassRecall(
        label=label,
        images=len(predicted),
        right=int((predicted == label).sum()),
        rival=int(rivals[most]),
        rival_count=int(counts[most]),
    )
