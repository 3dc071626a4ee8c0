"""Synthetic predictions for tests."""

import torch
from torch import Tensor, nn

from kkanji.evaluation.predictions import TOP, Predictions


def predictions_from(probability: Tensor, labels: Tensor) -> Predictions:
    """Predictions of a model that gives each class these probabilities [N, C]."""
    top = probability.topk(min(TOP, probability.shape[1]), dim=1)
    missing = TOP - top.values.shape[1]
    return Predictions(
        position=torch.arange(len(labels)),
        label=labels.int(),
        predicted=nn.functional.pad(top.indices, (0, missing), value=-1).int(),
        probability=nn.functional.pad(top.values, (0, missing)).float(),
        label_probability=probability.gather(1, labels[:, None])[:, 0].float(),
    )


def confident(probability: list[float], right: list[bool]) -> Predictions:
    """Predictions with these probabilities of the top class, which is class 0, the true one, where they are right."""
    count = len(right)
    predicted = torch.arange(TOP).repeat(count, 1)
    predicted[:, 0] = torch.tensor([0 if hit else 9 for hit in right])
    wide = torch.zeros(count, TOP)
    wide[:, 0] = torch.tensor(probability)
    return Predictions(
        position=torch.arange(count),
        label=torch.zeros(count, dtype=torch.int32),
        predicted=predicted.int(),
        probability=wide,
        label_probability=wide[:, 0],
    )
