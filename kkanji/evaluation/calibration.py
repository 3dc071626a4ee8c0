"""Calibration: do a model's probabilities match its accuracy, and which temperature makes them match?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji.evaluation.predictions import Predictions

BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599, so that the error can be compared with the literature
# A grid from 0.25 to 2.8 in steps of 9 %. It is fine enough, as the loss is flat near its minimum, and sums at the
# points of a grid can be added over ranks without storing any logits.
TEMPERATURES = tuple(2 ** (step / 8) for step in range(-16, 13))
FOLDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Confidence (the probability of the top class) against accuracy, in bins of equal width."""

    edges: NDArray[np.float64]
    """Edges of the bins from 0 to 1, [bins + 1]."""
    images: NDArray[np.int64]
    """Images in each bin, [bins]."""
    confidence: NDArray[np.float64]
    """Mean confidence in each bin, [bins]; NaN in an empty bin."""
    accuracy: NDArray[np.float64]
    """Fraction of correct predictions in each bin, [bins]; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance between confidence and accuracy, weighted by images."""
        return float(np.nansum(self.images * np.abs(self.confidence - self.accuracy)) / self.images.sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The predictions that remain if only those of at least some probability are accepted."""

    probability: float
    """Least probability that is accepted."""
    images: int
    """Number of accepted predictions."""
    right: int
    """Number of accepted predictions that are correct."""
    fraction: float
    """Accepted predictions as a fraction of all."""
    accuracy: float | None
    """Fraction of the accepted predictions that are correct; None if none was accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """The divisor of the logits that calibrates the probabilities, and the effect it has.

    The effect is cross-fitted: each half of the images is measured with the temperature that was fitted on the other
    half, so that no image has a part in its own temperature. `value` is fitted on all images.
    """

    value: float
    """Divisor of the logits; above 1 makes the model less confident."""
    images: int
    """Images that it was fitted on."""
    loss_before: float
    """Mean cross-entropy in nats at temperature 1."""
    loss_after: float
    """Mean cross-entropy in nats at the fitted temperature."""
    calibration_error_before: float
    """Expected calibration error at temperature 1."""
    calibration_error_after: float
    """Expected calibration error at the fitted temperature."""


def calibrate(predictions: Predictions) -> Calibration:
    """Compare the confidence of the predictions with their accuracy."""
    sums = _reliability(predictions.probability[:, 0], ~predictions.wrong())
    return _calibration(sums.cpu().numpy())


def accept(predictions: Predictions, probabilities: Sequence[float]) -> tuple[Accepted, ...]:
    """For each of these least probabilities: how many predictions reach it, and how many of those are correct."""
    confidence = predictions.probability[:, 0]
    right = ~predictions.wrong()
    # Stacked on the device, so that all counts come to the host in one copy.
    counts = torch.stack([_count_from(least, confidence, right) for least in probabilities]).tolist()
    return tuple(
        Accepted(
            probability=probability,
            images=images,
            right=hits,
            fraction=images / len(predictions),
            accuracy=hits / images if images else None,
        )
        for probability, (images, hits) in zip(probabilities, counts, strict=True)
    )


def _count_from(least: float, confidence: Tensor, right: Tensor) -> Tensor:
    """[2]: predictions of at least this confidence, and the correct ones among them."""
    reached = confidence >= least
    return torch.stack([reached.sum(), (reached & right).sum()])


class TemperatureScan:
    """Fits a temperature while a split is evaluated, from sums on the device for every temperature of a grid.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """

    def __init__(self, device: torch.device, temperatures: Sequence[float] = TEMPERATURES) -> None:
        """temperatures: to choose from, with 1 among them."""
        self._temperatures = tuple(temperatures)
        self._losses = torch.zeros(FOLDS, len(temperatures), dtype=torch.float64, device=device)
        self._bins = torch.zeros(FOLDS, len(temperatures), 3, BINS, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor, first: int) -> None:
        """Add a batch: logits [B, C], which may be off by a constant for each image, and labels [B].

        first: position of the first image in the split.
        """
        for fold in range(FOLDS):
            part = slice((fold - first) % FOLDS, None, FOLDS)  # by position, so that ranks do not change the folds
            for number, temperature in enumerate(self._temperatures):
                self._add(fold, number, (logits[part] / temperature).log_softmax(dim=1), labels[part])

    def _add(self, fold: int, number: int, log_probability: Tensor, labels: Tensor) -> None:
        self._losses[fold, number] += nn.functional.nll_loss(log_probability, labels, reduction="sum").double()
        best = log_probability.max(dim=1)
        self._bins[fold, number] += _reliability(best.values.exp(), best.indices == labels)

    def errors(self, accelerator: Accelerator) -> dict[float, float]:
        """The expected calibration error of all ranks' images at each temperature. Every rank must call it."""
        bins = accelerator.reduce(self._bins, reduction="sum").sum(dim=0).cpu().numpy()
        return {number: _calibration(sums).error for number, sums in zip(self._temperatures, bins, strict=True)}

    def fit(self, accelerator: Accelerator) -> Temperature:
        """The best temperature for the images of all ranks. Every rank must call it."""
        losses = accelerator.reduce(self._losses, reduction="sum").cpu().numpy()
        bins = accelerator.reduce(self._bins, reduction="sum").cpu().numpy()
        folds = np.arange(FOLDS)
        images = int(bins[:, 0, 0].sum())
        unscaled = self._temperatures.index(1.0)
        chosen = losses[::-1].argmin(axis=1)  # reversed: each fold gets the best temperature of the other
        return Temperature(
            value=self._temperatures[losses.sum(axis=0).argmin()],
            images=images,
            loss_before=float(losses[:, unscaled].sum() / images),
            loss_after=float(losses[folds, chosen].sum() / images),
            calibration_error_before=_calibration(bins[:, unscaled].sum(axis=0)).error,
            calibration_error_after=_calibration(bins[folds, chosen].sum(axis=0)).error,
        )


def _reliability(confidence: Tensor, right: Tensor) -> Tensor:
    """Sums for each bin, float64 [3, BINS]: images, their confidence, correct predictions. confidence, right: [N]."""
    confidence = confidence.double()
    index = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # a bin includes its upper edge, as in Guo
    weights = (torch.ones_like(confidence), confidence, right.double())
    return torch.stack([index.bincount(weight, minlength=BINS) for weight in weights])


def _calibration(sums: NDArray[np.float64]) -> Calibration:
    """From the sums of `_reliability`."""
    images, confidence, right = sums
    filled = images > 0
    return Calibration(
        edges=np.linspace(0, 1, BINS + 1),
        images=images.astype(np.int64),
        confidence=np.divide(confidence, images, np.full(BINS, np.nan), where=filled),
        accuracy=np.divide(right, images, np.full(BINS, np.nan), where=filled),
    )
