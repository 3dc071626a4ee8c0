"""A score that an image shows none of a model's characters, and why.

A softmax regression on a few numbers: how near the training images are, how sure the network is, and how the ink lies.
It learns from characters that the network was not trained on, and from images made to be none (see `made`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kkanji.neighbours.made import NOTHING, OTHER, SEVERAL
from kkanji.neighbours.vote import Reading

REASONS = (NOTHING, SEVERAL, OTHER)
FEATURES = 14
INK = 96  # gray level from which a pixel is ink
PENALTY = 1e-3  # of squared weights: some of the numbers nearly repeat each other
REJECTED = 0.01  # part of the characters whose score may reach the threshold


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A fitted score, as `state.json` has it."""

    weights: Sequence[Sequence[float]]
    """For each of character and REASONS, FEATURES numbers and a constant."""
    threshold: float
    """Score from which an image is said to be none of the model's characters."""

    def __post_init__(self) -> None:
        shape = np.shape(np.asarray(self.weights, np.float64))
        if shape != (len(REASONS) + 1, FEATURES + 1) or not np.isfinite(self.weights).all():
            raise ValueError(f"unknown: weights {shape}, expected {(len(REASONS) + 1, FEATURES + 1)} finite numbers")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"unknown: threshold {self.threshold}, expected 0 to 1")

    @cached_property
    def _matrix(self) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)

    def probabilities(self, features: Tensor) -> Tensor:
        """Of character and each reason, float64 [B, 4], by features [B, FEATURES]."""
        return _with_constant(features).matmul(self._matrix.T).softmax(dim=1)

    def scores(self, features: Tensor) -> Tensor:
        """Scores from 0 to 1, float64 [B]: half if a character and none are as probable in equal numbers."""
        return 1 - self.probabilities(features)[:, 0]

    def reasons(self, features: Tensor) -> list[str | None]:
        """The most probable reason for each image, None for one whose score is below the threshold."""
        probabilities = self.probabilities(features)
        best = probabilities[:, 1:].argmax(dim=1).tolist()
        doubted = (1 - probabilities[:, 0] >= self.threshold).tolist()
        return [REASONS[number] if doubt else None for number, doubt in zip(best, doubted, strict=True)]


def describe(reading: Reading, images: NDArray[np.uint8]) -> Tensor:
    """The numbers that the score is made of, float64 [B, FEATURES], on the CPU. images: [B, 64, 64]."""
    seen = torch.from_numpy(np.stack([ink_of(image) for image in images]))
    return torch.cat([of_reading(reading).double().cpu(), seen], dim=1)


def of_reading(reading: Reading) -> Tensor:
    """Those of them that network and neighbours give, float32 [B, 7]."""
    columns = [
        reading.cosines[:, 0],
        reading.cosines.mean(dim=1),
        reading.energy,
        reading.length,
        reading.inside,
        reading.log_probabilities.amax(dim=1),
        -(reading.log_probabilities.exp() * reading.log_probabilities).sum(dim=1),
    ]
    return torch.stack(columns, dim=1)


def ink_of(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How the ink of an image lies: how much, how gray, in how many parts, with how many gaps, and at the edge."""
    ink = image >= INK
    gray = float(((image > 32) & (image < 224)).mean())
    parts = cv2.connectedComponents(ink.astype(np.uint8))[0] - 1
    border = float(np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]]).mean())
    across, down = np.asarray(ink.any(axis=0)), np.asarray(ink.any(axis=1))
    return np.array(
        [
            float(ink.mean()),
            gray,
            np.log1p(parts),
            _runs(across),
            _runs(down),
            border,
            abs(float(across.mean() - down.mean())),
        ]
    )


def _runs(line: NDArray[np.bool_]) -> int:
    """Stretches of rows or columns with ink, between those without."""
    return int((np.diff(line.astype(np.int8), prepend=0) == 1).sum())


def fit(characters: Tensor, others: dict[str, Tensor]) -> Unknown:
    """Fit to features [n, FEATURES] of characters and, by reason, of images that are none.

    Characters count as much as all others together. The threshold is passed by one character in a hundred.
    """
    parts = [characters, *(others[reason] for reason in REASONS)]
    kinds = torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])
    features = torch.cat(parts)
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    share = torch.where(kinds == 0, 1 / len(characters), 1 / (len(features) - len(characters))) / 2
    standard = _minimum(_with_constant((features - mean) / scale), kinds, share)
    weights = torch.cat([standard[:, :-1] / scale, standard[:, -1:]], dim=1)
    weights[:, -1] -= weights[:, :-1] @ mean
    free: Any = weights.tolist()
    scores = Unknown(weights=free, threshold=0.5).scores(characters)
    return Unknown(weights=free, threshold=float(scores.quantile(1 - REJECTED)))


def _minimum(features: Tensor, kinds: Tensor, share: Tensor) -> Tensor:
    """Weights [4, F + 1] of least weighted cross-entropy. share: weight of each image [n], of sum 1."""
    weights = torch.zeros(len(REASONS) + 1, features.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        solver.zero_grad()
        losses = torch.nn.functional.cross_entropy(features @ weights.T, kinds, reduction="none")
        value = (losses * share).sum() + PENALTY * weights[:, :-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weights.detach()


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
