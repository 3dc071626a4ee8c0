"""Whether a model's confidence can be believed: reliability, what confident readings alone are worth, temperature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji.evaluation.predictions import Predictions

BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599, so that the error compares with the literature
# From 0.25 to 2.8 in steps of 9 %: the loss is flat near its least, and sums over a grid add up exactly over ranks.
TEMPERATURES = tuple(2 ** (step / 8) for step in range(-16, 13))
FOLDS = 2


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

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy, weighted by images."""
        return float(np.nansum(self.images * np.abs(self.confidence - self.accuracy)) / self.images.sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What is left when only readings of at least some probability are accepted."""

    probability: float
    images: int
    right: int
    share: float
    """Of all images."""
    accuracy: float | None
    """Of the accepted readings; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """A divisor of the logits that makes the stated probabilities right, and what it is worth.

    The figures are cross-fitted: each half of the images is measured with the temperature of the other half, so none is
    measured with one that it had a part in. `value` is then fitted on all of them.
    """

    value: float
    images: int
    """That it was fitted on."""
    loss_before: float
    loss_after: float
    calibration_error_before: float
    calibration_error_after: float


def calibrate(predictions: Predictions) -> Calibration:
    """Compare the probability of each first reading with how often such readings are right."""
    sums = _reliability(predictions.probability[:, 0], ~predictions.wrong())
    return _calibration(sums.cpu().numpy())


def accept(predictions: Predictions, probabilities: Sequence[float]) -> tuple[Accepted, ...]:
    """For each least probability: how many readings reach it and how many of those are right."""
    stated, right = predictions.probability[:, 0], ~predictions.wrong()
    counts = torch.stack([_count_from(probability, stated, right) for probability in probabilities]).tolist()
    return tuple(
        Accepted(
            probability=probability,
            images=images,
            right=hits,
            share=images / len(predictions),
            accuracy=hits / images if images else None,
        )
        for probability, (images, hits) in zip(probabilities, counts, strict=True)
    )


def _count_from(least: float, stated: Tensor, right: Tensor) -> Tensor:
    """[2]: readings stated at least so, and those of them that are right."""
    reached = stated >= least
    return torch.stack([reached.sum(), (reached & right).sum()])


class TemperatureScan:
    """Loss and reliability at every temperature of a grid, summed on the device while a split is evaluated.

    Temperature scaling: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """

    def __init__(self, device: torch.device) -> None:
        self._losses = torch.zeros(FOLDS, len(TEMPERATURES), dtype=torch.float64, device=device)
        self._bins = torch.zeros(FOLDS, len(TEMPERATURES), 3, BINS, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor, first: int) -> None:
        """Count images [B] at positions first.. of the split; logits [B, C] may lack a constant for each image."""
        for fold in range(FOLDS):
            part = slice((fold - first) % FOLDS, None, FOLDS)
            for number, temperature in enumerate(TEMPERATURES):
                self._add(fold, number, (logits[part] / temperature).log_softmax(dim=1), labels[part])

    def _add(self, fold: int, number: int, log_probability: Tensor, labels: Tensor) -> None:
        self._losses[fold, number] += nn.functional.nll_loss(log_probability, labels, reduction="sum").double()
        best = log_probability.max(dim=1)
        self._bins[fold, number] += _reliability(best.values.exp(), best.indices == labels)

    def fit(self, accelerator: Accelerator) -> Temperature:
        """The best temperature over all ranks' images, and its cross-fitted figures. Every rank must call it."""
        losses = accelerator.reduce(self._losses, reduction="sum").cpu().numpy()
        bins = accelerator.reduce(self._bins, reduction="sum").cpu().numpy()
        folds = np.arange(FOLDS)
        images = int(bins[:, 0, 0].sum())
        plain, chosen = TEMPERATURES.index(1.0), losses[::-1].argmin(axis=1)  # of the other fold
        return Temperature(
            value=TEMPERATURES[losses.sum(axis=0).argmin()],
            images=images,
            loss_before=float(losses[:, plain].sum() / images),
            loss_after=float(losses[folds, chosen].sum() / images),
            calibration_error_before=_calibration(bins[:, plain].sum(axis=0)).error,
            calibration_error_after=_calibration(bins[folds, chosen].sum(axis=0)).error,
        )


def _reliability(stated: Tensor, right: Tensor) -> Tensor:
    """float64 [3, BINS]: images, their stated probabilities summed, and those read right; stated, right [N]."""
    stated = stated.double()
    index = (stated * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    weights = (torch.ones_like(stated), stated, right.double())
    return torch.stack([index.bincount(weight, minlength=BINS) for weight in weights])


def _calibration(sums: NDArray[np.float64]) -> Calibration:
    """From images, stated probabilities and right readings by bin [3, BINS]."""
    images, stated, right = sums
    filled = images > 0
    confidence, accuracy = (np.divide(part, images, np.full(BINS, np.nan), where=filled) for part in (stated, right))
    return Calibration(
        edges=np.linspace(0, 1, BINS + 1), images=images.astype(np.int64), confidence=confidence, accuracy=accuracy
    )
