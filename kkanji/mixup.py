"""Mixup: training on weighted pairs of images (Zhang et al., ICLR 2018), within a micro-batch and on its device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixed:
    """Images, each mixed with another of the micro-batch."""

    images: Tensor
    """float32 [B, 1, s, s]"""
    labels: Tensor
    """int64 [B], of the images themselves."""
    others: Tensor | None = None
    """int64 [B], of those mixed in; None if none were."""
    share: Tensor | None = None
    """Of the images themselves, float32 []."""

    def summed_loss(self, logits: Tensor, smoothing: float) -> Tensor:
        """Cross-entropy summed over the micro-batch; logits [B, C]."""
        loss = cross_entropy(logits, self.labels, label_smoothing=smoothing, reduction="sum")
        if self.others is None or self.share is None:
            return loss
        other = cross_entropy(logits, self.others, label_smoothing=smoothing, reduction="sum")
        return self.share * loss + (1 - self.share) * other


def mixup(images: Tensor, labels: Tensor, alpha: float) -> Mixed:
    """Each image with the one opposite in its micro-batch; draws from torch's generator. alpha 0: none mixed."""
    if alpha == 0:
        return Mixed(images=images, labels=labels)
    share = Beta(alpha, alpha).sample().to(images.device)
    return Mixed(images=torch.lerp(images.flip(0), images, share), labels=labels, others=labels.flip(0), share=share)
