"""The last step before a network: bytes to normalised floats. The same for training, evaluation and prediction."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

# Measured on all 140,424 images of Kuzushiji-Kanji.
MEAN = 0.2190 * 255
"""Mean of the pixels in gray levels."""
STD = 0.3796 * 255
"""Standard deviation of the pixels in gray levels."""


def normalise(images: Tensor) -> Tensor:
    """Normalise images uint8 [B, 1, 64, 64] to float32 of mean 0 and standard deviation 1, on their device.

    Only here do they become floats: on the way from disk to device they are bytes, a quarter of the size.
    """
    return images.to(torch.float32, copy=True).sub_(MEAN).div_(STD)


def resized(images: Tensor, size: int) -> Tensor:
    """Resize images [B, 1, s, s] to `size` pixels a side, with antialiasing."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=size, mode="bilinear", antialias=True)
