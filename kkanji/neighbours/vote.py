"""A network with its neighbours: the nearest training images vote, and their votes are mixed with its probabilities.

As k-nearest-neighbour language models do (Khandelwal et al. 2020, arXiv:1911.00172).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kkanji.neighbours.index import Index, project

ROWS = 256  # images compared with the index at a time: 94 MB of cosines for 92,000 training images
LEAST = 1e-12  # probability whose logarithm a class without any vote gets


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """How neighbours and network are mixed, as `state.json` has it."""

    count: int = 10
    """Number of neighbours that vote."""
    temperature: float = 0.03
    """Divisor of their cosines, whose softmax is the weight of each vote."""
    weight: float = 0.5
    """Part of the neighbours in the mixed probability, from 0 to 1."""

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or not (
            0 < self.count <= 1000 and 0.001 <= self.temperature <= 10 and 0 <= self.weight <= 1
        ):
            raise ValueError(f"neighbours {self}: expected 1 to 1000 of them, temperature 0.001 to 10, weight 0 to 1")


class Reading(NamedTuple):
    """What network and neighbours say of B images."""

    log_probabilities: Tensor
    """float32 [B, C]."""
    cosines: Tensor
    """Of the neighbours, the nearest first, float32 [B, k]."""
    energy: Tensor
    """Logarithm of the sum of the network's exponentiated logits, float32 [B] (Liu et al. 2020, arXiv:2010.03759)."""
    length: Tensor
    """Of the features, float32 [B]."""
    inside: Tensor
    """Part of that length in the index's dimensions, float32 [B] (after Wang et al. 2022, arXiv:2203.10807)."""


class WithNeighbours(nn.Module):
    """A classifier whose logits are the logarithms of mixed probabilities."""

    projection: Tensor
    vectors: Tensor
    labels: Tensor

    def __init__(self, network: nn.Module, index: Index, mix: Mix, temperature: float) -> None:
        """temperature: divisor of the network's logits."""
        super().__init__()
        self.network, self.mix, self.temperature = network, mix, temperature
        self.register_buffer("projection", index.projection)
        self.register_buffer("vectors", index.vectors())
        self.register_buffer("labels", index.labels())

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms of probabilities float32 [B, C] of normalised images [B, 1, 64, 64]."""
        return self.read(images).log_probabilities

    def read(self, images: Tensor) -> Reading:
        """As forward, with what tells a character from anything else."""
        features = features_of(self.network, images)
        with torch.autocast(images.device.type, enabled=False):  # half precision would mix up near neighbours
            return self.read_features(features.float())

    def read_features(self, features: Tensor) -> Reading:
        """As read, for features float32 [B, D]."""
        logits = logits_of(self.network, features)
        inside = project(features, self.projection)
        cosines, numbers = nearest(normalize(inside), self.vectors, self.mix.count)
        votes = votes_of(cosines, self.labels[numbers], self.mix.temperature, logits.shape[1])
        mixed = mixture((logits / self.temperature).softmax(dim=1), votes, self.mix.weight)
        lengths = (features.norm(dim=1), inside.norm(dim=1))
        return Reading(mixed.clamp(min=LEAST).log(), cosines, logits.logsumexp(dim=1), *lengths)


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """What a timm network gives its classifier, [B, D], for normalised images [B, 1, 64, 64]."""
    timm: Any = network
    features: Tensor = timm.forward_head(timm.forward_features(images), pre_logits=True)
    return features


def logits_of(network: nn.Module, features: Tensor) -> Tensor:
    """Logits [B, C] of features [B, D]."""
    timm: Any = network
    logits: Tensor = timm.get_classifier()(features)
    return logits


def nearest(features: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cosines [B, k] and numbers [B, k] of the nearest vectors [N, D], of which there may be fewer than `count`."""
    found = [(rows @ vectors.T).topk(min(count, len(vectors)), dim=1) for rows in features.split(ROWS)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def votes_of(cosines: Tensor, labels: Tensor, temperature: float, classes: int) -> Tensor:
    """Probabilities [B, C] by the neighbours alone. labels: their classes [B, k]."""
    weights = (cosines / temperature).softmax(dim=1)
    rows = weights.shape[0]  # not len: that is a constant to exporters
    return weights.new_zeros(rows, classes).scatter_add(1, labels, weights)


def mixture(probabilities: Tensor, votes: Tensor, weight: float) -> Tensor:
    """Mixed probabilities [B, C]."""
    return torch.lerp(probabilities, votes, weight)
