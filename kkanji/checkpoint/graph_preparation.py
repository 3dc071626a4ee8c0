"""The preparation of image files (kkanji/inference/image_files.py) as tensor operations, which an ONNX file carries.

Reading a file, its orientation and its transparency stay with the file's reader. The rest is here: polarity, gray
levels and the scaling to 64 pixels, whose filter is a matrix for rows and another for columns.
"""

import math

import torch
from torch import Tensor, nn

from shards.format.layout import IMAGE_SIZE

LIGHT = 127.5  # paper above this is light, its ink dark
CLEAN = 16.0  # paper up to this level counts as black
LOBES = 3.0  # of the Lanczos filter, on either side


class Preparation(nn.Module):
    """Gray images of any size, dark on light or light on dark, to what the networks were trained on."""

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 1, H, W] to float32 [B, 1, 64, 64] of whole gray levels, white ink on black.

        Images of 64x64 with white ink on black come out unchanged.
        """
        levels = _on_black(images.to(torch.float32))
        height, width = levels.shape[-2], levels.shape[-1]
        longest = torch.sym_max(height, width) * torch.ones((), dtype=torch.float32)
        rows, columns = (_filter(size, longest) for size in (height, width))
        across = _whole(levels @ columns.T)  # Pillow rounds between the passes, too
        return _whole(rows @ across)


def _on_black(levels: Tensor) -> Tensor:
    """Invert dark ink on light paper; stretch the levels so that paper is 0 and the strongest ink 255."""
    paper = _median(_border(levels))
    light = paper > LIGHT - 0.5
    ink, paper = torch.where(light, 255 - levels, levels), torch.where(light, 255 - paper, paper)
    strongest = ink.amax(dim=(2, 3), keepdim=True)
    is_clean = (paper <= CLEAN) | (strongest <= paper)
    stretched = _whole((ink - paper) / (strongest - paper).clamp(min=1) * 255)
    return torch.where(is_clean, ink, stretched)


def _border(levels: Tensor) -> Tensor:
    """The outermost pixels [B, 1, n]: n is even."""
    return torch.cat([levels[..., 0, :], levels[..., -1, :], levels[..., :, 0], levels[..., :, -1]], dim=-1)


def _median(values: Tensor) -> Tensor:
    """The median of an even number of values [B, 1, n], as [B, 1, 1, 1]."""
    half = values.shape[-1] // 2
    ordered = values.sort(dim=-1).values
    return ((ordered[..., half - 1] + ordered[..., half]) / 2)[..., None, None]


def _filter(size: int, longest: Tensor) -> Tensor:
    """Weights float32 [64, size] of the Lanczos filter which scales an image's longest side to 64 pixels, centred."""
    target = (size * IMAGE_SIZE / longest).round().clamp(min=1)
    scale = size / target
    place = torch.arange(IMAGE_SIZE, dtype=torch.float32) - ((IMAGE_SIZE - target) / 2).floor()
    centre = (place + 0.5) * scale
    stretch = scale.clamp(min=1)
    distance = (torch.arange(size, dtype=torch.float32) + 0.5 - centre[:, None]) / stretch
    weights = _lanczos(distance)
    inside = ((place >= 0) & (place < target))[:, None]
    total = torch.where(inside, weights.sum(dim=1, keepdim=True), torch.ones(()))
    return torch.where(inside, weights / total, torch.zeros(()))


def _lanczos(distance: Tensor) -> Tensor:
    near = distance.abs().clamp(min=1e-6) * math.pi
    value = near.sin() / near * (near / LOBES).sin() / (near / LOBES)
    return torch.where(distance.abs() < LOBES, value, torch.zeros(()))


def _whole(levels: Tensor) -> Tensor:
    """Levels as 8 bits hold them."""
    return levels.round().clamp(0, 255)
