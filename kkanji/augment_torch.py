"""The augmentation policy as batched torch code, for the GPU pipeline: applies rows made by `kkanji.augment.draw`.

Same rows, same images to one gray level as the reference `kkanji.augment.apply`; a test holds them together on the CPU,
where this code runs too. Shapes: B images, H = W = 64.
"""

import torch
from torch import Tensor

from kkanji.augment_kernels import CENTRE, GRID_START, NODES
from shards.layout import IMAGE_SIZE


def apply(images_bhw: Tensor, rows: Tensor) -> Tensor:
    """Augment images uint8 [B, 64, 64] by rows float32 [B, ROW], on the device they are on."""
    warped = _sample(images_bhw, *_coordinates(rows))
    kept = warped * ~_inside_box(rows)
    return (kept + _noise(rows) + 0.5).clamp_(0, 255).to(torch.uint8)


def _coordinates(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel is taken from: x and y, each [B, 64, 64]."""
    axis = torch.arange(IMAGE_SIZE, device=rows.device, dtype=torch.float32) - float(CENTRE)
    u, v = axis[None, None, :], axis[None, :, None]
    a, b, c, d, e, f = (rows[:, i, None, None] for i in range(6))
    shift = _elastic(rows)
    x = a * u + b * v + c + float(CENTRE) + shift[:, 0]
    y = d * u + e * v + f + float(CENTRE) + shift[:, 1]
    return x, y


def _elastic(rows: Tensor) -> Tensor:
    """The displacement field [B, 2, 64, 64]: the nodes' displacements, bilinear between them."""
    nodes = rows[:, GRID_START:].reshape(-1, 2, NODES, NODES)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return torch.nn.functional.interpolate(nodes, size=size, mode="bilinear", align_corners=True)


def _sample(images_bhw: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear samples, float32 [B, 64, 64], in whole gray levels; black outside."""
    last = IMAGE_SIZE - 1
    grid = torch.stack([x, y], dim=-1) * (2 / last) - 1
    pixels = images_bhw[:, None].to(torch.float32)
    sampled = torch.nn.functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return sampled[:, 0].add_(0.5).floor_()


def _inside_box(rows: Tensor) -> Tensor:
    """Which pixels the erased box covers, bool [B, 64, 64]."""
    axis = torch.arange(IMAGE_SIZE, device=rows.device, dtype=torch.float32)
    left, top, right, bottom = (rows[:, i, None] for i in range(7, 11))
    inside_x, inside_y = (axis >= left) & (axis < right), (axis >= top) & (axis < bottom)
    return inside_x[:, None, :] & inside_y[:, :, None]


def _noise(rows: Tensor) -> Tensor:
    """Noise in gray levels, float32 [B, 64, 64]: the four bytes of each pixel's bits, summed."""
    bits = _pixel_bits(rows[:, 11].to(torch.int64))
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + (bits >> 24)
    scale = rows[:, 6] * (1.7320508 / 256)
    noise = scale[:, None] * (total - 510).to(torch.float32)
    return noise.reshape(-1, IMAGE_SIZE, IMAGE_SIZE)


def _pixel_bits(keys: Tensor) -> Tensor:
    """32 mixed bits for each key and pixel, int64 [B, 4096]: torch has no unsigned 32-bit arithmetic on the GPU."""
    mask = 0xFFFFFFFF
    pixels = torch.arange(IMAGE_SIZE * IMAGE_SIZE, device=keys.device, dtype=torch.int64)
    x = (keys[:, None] * 0x9E3779B1 + pixels[None] * 0x85EBCA6B) & mask
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
    x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
    return x ^ (x >> 16)
