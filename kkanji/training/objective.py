"""The loss of a micro-batch: against its labels, mixed where mixup mixes images, and against teachers' outputs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn.functional import cross_entropy

from kkanji import checkpoint
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap, label
from shards import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How one micro-batch is mixed: each image with the one opposite in the batch."""

    fraction: float | None = None
    """Fraction of an image itself in the mixture. None mixes nothing."""
    stage: int = 0
    """The stage of the network after which to mix, from 1. 0 mixes the images."""

    def of(self, values: Tensor) -> Tensor:
        """Values [B, ...] of the images, mixed."""
        return values if self.fraction is None else torch.lerp(values.flip(0), values, self.fraction)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixup:
    """Mixup of images (Zhang et al., ICLR 2018) or of a stage's outputs (manifold mixup, Verma et al., ICML 2019)."""

    alpha: float
    """Fractions are sampled from Beta(alpha, alpha). 0 mixes nothing."""
    stages: int = 0
    """Number of stages, from the first, after which mixup may mix. Mixing the images themselves is one more choice."""

    def sample(self) -> Mixing:
        """A mixing for the next micro-batch, by torch's generator on the CPU, so that it is the same for any device."""
        if self.alpha == 0:
            return Mixing()
        fraction = float(Beta(self.alpha, self.alpha).sample())
        return Mixing(fraction=fraction, stage=int(torch.randint(self.stages + 1, ())) if self.stages else 0)

    def fractions(self, mixing: Mixing, device: torch.device) -> Tensor | None:
        """What the network takes (`Network.forward`): float32 [1 + stages] on its device, or None to mix nothing.

        A device fills it by itself: a copy from the host's pageable memory would wait for all work queued before.
        """
        if mixing.fraction is None:
            return None
        fractions = torch.ones(1 + self.stages, device=device)
        fractions[mixing.stage].fill_(mixing.fraction)
        return fractions


class Objective(Protocol):
    """The loss that a run minimises."""

    def __call__(self, logits: Tensor, labels: Tensor, pixels: Tensor, mixing: Mixing) -> Tensor:
        """The loss summed over a micro-batch, float32 [].

        logits: float32 [B, C], of the mixed images; labels, pixels: int64 [B] and normalised [B, 1, 64, 64], not mixed.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy:
    """The labels as the target."""

    smoothing: float = 0.0
    """Fraction of the target that is spread over all classes."""
    weights: Tensor | None = None
    """What the loss of an image counts, by its class: float32 [C]. None counts all alike."""

    def __call__(self, logits: Tensor, labels: Tensor, pixels: Tensor, mixing: Mixing) -> Tensor:  # noqa: ARG002
        """As Objective."""
        loss = self._against(logits, labels)
        if mixing.fraction is None:
            return loss
        # The mean over both labels' losses is the loss against the mixed label, without a target [B, C] in memory.
        return mixing.fraction * loss + (1 - mixing.fraction) * self._against(logits, labels.flip(0))

    def _against(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weights is None:
            return cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="sum")
        # Not by `weight`: with smoothing that would weigh each class of the target by itself.
        losses = cross_entropy(logits, labels, label_smoothing=self.smoothing, reduction="none")
        return losses @ self.weights[labels]


def class_weights(samples: Tensor, exponent: float) -> Tensor | None:
    """What the loss of an image counts, in proportion to n**-exponent, of its class's n images: float32 [C].

    The mean over all images is 1, so that the learning rate need not change. samples: int64 [C]. None for exponent 0.
    """
    if not exponent:
        return None
    weights = torch.where(samples > 0, samples.clamp(min=1).double() ** -exponent, 0.0)
    return (weights * samples.sum() / (weights @ samples.double())).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """Labels, and teachers' predictions for the same images (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).

    The network learns the average of several networks, whose errors partly cancel, at the cost of one.
    """

    labels: Objective
    teachers: Callable[[Tensor], Tensor]
    """Probabilities float32 [B, C] of normalised images [B, 1, 64, 64]."""
    weight: float
    """Weight of the distillation loss, from 0 to 1; the labels' loss has the rest."""
    autocast: Callable[[], AbstractContextManager[None]]
    """The precision of the teachers' forward pass."""

    def __call__(self, logits: Tensor, labels: Tensor, pixels: Tensor, mixing: Mixing) -> Tensor:
        """As Objective."""
        hard = self.labels(logits, labels, pixels, mixing)
        with self.autocast():
            probabilities = self.teachers(pixels)
        soft = cross_entropy(logits, mixing.of(probabilities), reduction="sum")
        return torch.lerp(hard, soft, self.weight)


class Teachers:
    """Trained networks that do not change, and their classes in the order of the run's."""

    def __init__(self, paths: Sequence[Path], classes: ClassMap, trained: Tensor, device: torch.device) -> None:
        """paths: checkpoints or exported folders. trained: number of training images of each class [C].

        Raises InputError as `checkpoint.check`, or if one does not know a class that has training images.
        """
        self._networks = [load_trained(path).eval().requires_grad_(False).to(device) for path in paths]
        for network in self._networks:
            network.to(memory_format=torch.channels_last)
        self._columns = [_columns(path, classes, trained).to(device) for path in paths]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The mean of the teachers' probabilities for normalised images [B, 1, 64, 64]: float32 [B, C], rows sum to 1.

        A class that a teacher does not know has probability 0 for it.
        """
        probabilities = (
            network(images).float()[:, columns.clamp(min=0)].masked_fill(columns < 0, -torch.inf).softmax(dim=1)
            for network, columns in zip(self._networks, self._columns, strict=True)
        )
        return torch.stack(list(probabilities)).mean(dim=0)


def _columns(path: Path, classes: ClassMap, trained: Tensor) -> Tensor:
    """The teacher's number of each of the run's classes, or -1."""
    known = checkpoint.read_classes(path).ids
    columns = torch.tensor([known.get(point, -1) for point in classes.code_points])
    missing = [label(classes.code_points[number]) for number in torch.nonzero((columns < 0) & (trained > 0))[:, 0]]
    if missing:
        some = f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
        raise InputError(f"--teachers {path}: does not know {len(missing)} of the set's characters: {some}")
    return columns
