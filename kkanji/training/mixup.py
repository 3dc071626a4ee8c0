"""Mixup: training on weighted pairs of images, each with the one opposite in its micro-batch, on its device.

Of the images (Zhang et al., ICLR 2018) or, manifold mixup (Verma et al., ICML 2019), of what a stage of the network
makes of them, drawn anew for every micro-batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixing:
    """How a micro-batch is mixed."""

    fraction: Tensor | None = None
    """Of the images themselves, float32 []; None: nothing is mixed."""
    stage: int = 0
    """Whose outputs are mixed, from 1; 0: the images."""

    def of_images(self, images: Tensor) -> Tensor:
        """What the network is to be given for images [B, 1, s, s]."""
        return self._mix(images) if self.stage == 0 else images

    @contextmanager
    def within(self, stages: nn.Sequential) -> Iterator[None]:
        """While the network with these stages runs: the chosen one's outputs are mixed."""
        if self.fraction is None or self.stage == 0:
            yield
            return
        hook = stages[self.stage - 1].register_forward_hook(lambda _module, _inputs, output: self._mix(output))
        try:
            yield
        finally:
            hook.remove()

    def summed_loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Cross-entropy summed over the micro-batch; logits [B, C], the images' own labels int64 [B]."""
        loss = cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
        if self.fraction is None:
            return loss
        other = cross_entropy(logits, labels.flip(0), label_smoothing=smoothing, reduction="sum")
        return self.fraction * loss + (1 - self.fraction) * other

    def distillation_loss(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """The same against probabilities [B, C] of the images themselves, which are mixed as the images are."""
        return cross_entropy(logits, self._mix(probabilities), reduction="sum")

    def _mix(self, values: Tensor) -> Tensor:
        return values if self.fraction is None else torch.lerp(values.flip(0), values, self.fraction.to(values.dtype))


def sample_mixing(alpha: float, stages: int, device: torch.device) -> Mixing:
    """By torch's generator: a share from Beta(alpha, alpha), at one of so many first stages or of the images.

    alpha 0: nothing is mixed.
    """
    if alpha == 0:
        return Mixing()
    fraction = Beta(alpha, alpha).sample().to(device)
    return Mixing(fraction=fraction, stage=int(torch.randint(stages + 1, ())) if stages else 0)
