"""Gray levels as networks see them, measured on all 140,424 images of Kuzushiji-Kanji."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MEAN = 0.2190 * 255
"""Gray levels."""
STD = 0.3796 * 255
"""Gray levels."""


def normalise(images: Tensor) -> Tensor:
    """Images uint8 [B, 1, 64, 64] as float32 of mean 0 and deviation 1, on their device.

    The last step before the network: images cross from disk to device as bytes, a quarter of the size.
    """
    return images.to(torch.float32, copy=True).sub_(MEAN).div_(STD)


def resized(images: Tensor, size: int) -> Tensor:
    """Images [B, 1, s, s] reduced to size pixels a side, antialiased."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=size, mode="bilinear", antialias=True)
