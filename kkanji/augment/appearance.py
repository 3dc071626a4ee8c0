"""Training images as `kkanji.inference.image_files` leaves scans: with what finding the ink cannot take away.

A scan is not the data's image even after its ink was found: it is small or squeezed, beside the middle, turned, cut off
or blurred; neighbours, a frame's lines, the page's other side or a shadow are still there; strokes are broken or thick.
A network that has seen such images shares the work with the preparation. The published protocols train without them.

What happens to an image is a pure function of the run's seed and of its position in the sample stream, as in
`kkanji.augment.policy`: no image depends on the others of its batch. So a neighbour is the character itself, upside
down. This comes after the policy, in a few batched operations of torch on the batch's device, the same on CPU and GPU;
beside those of a network they are few, so there is no kernel of its own.

Shapes: B images, K random numbers of an image. Gray levels are from 0 (paper) to 1 (ink) in here.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from kkanji.augment import numba_kernels
from shards.format.layout import IMAGE_SIZE

NUMBERS = 44  # random numbers of an image: at least as many as the effects below take
CROP, CUT = 0.35, 0.1  # natural logarithms: of the largest window, and of one that is smaller than the character
SQUEEZE, SQUEEZED = 0.7, 0.35  # largest logarithm of the change in proportions, and how often there is one
OFF_CENTRE = 0.1  # of the window's side, beyond what a larger window leaves room for
TURN = 0.26  # largest rotation in radians: 15 degrees
NEIGHBOURS, LINES, BLEEDING, BLURRED, HARD, SHADED = 0.3, 0.1, 0.1, 0.4, 0.5, 0.1  # how often there is such a thing
GAP = 3  # pixels between a character and its neighbour: the data's images are cropped to the ink
BLUR = 2.2  # largest standard deviation in pixels: an image of 16 pixels that is enlarged has about 2
REACH = 5  # of the blur, in pixels


def soil(images: Tensor, fraction: float, seed: int, first: int) -> Tensor:
    """Images uint8 [B, 1, 64, 64], this fraction of them as scans look after preparation.

    seed: of the run. first: the first image's position in the sample stream; the others follow it.
    """
    numbers = np.empty((len(images), NUMBERS), np.float32)
    numba_kernels.sample_uniform(np.uint64(seed), first, numbers)
    chosen = np.flatnonzero(numbers[:, 0] < fraction)
    if not len(chosen):
        return images
    device = images.device
    # Without waiting for the device: small copies from memory that is not pinned are staged before the call returns.
    columns = torch.from_numpy(numbers[chosen, 1:].T.copy()).to(device, non_blocking=True)
    places = torch.from_numpy(chosen).to(device, non_blocking=True)
    numbers_of_effects = iter(columns[:, :, None, None, None])
    levels = images[places].float() / 255
    for effect in (_crop, _bleed, _line, _blur, _harden, _shade):
        levels = effect(levels, numbers_of_effects)
    return images.index_copy(0, places, (levels * 255).round().to(torch.uint8))


def _crop(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """Take a window that is turned and not quite the character's, with whatever stands beside it."""
    size = next(u) ** 2 * (CROP + CUT) - CUT
    squeeze = (next(u) * 2 - 1) * SQUEEZE * (next(u) < SQUEEZED)
    width, height = (size - squeeze.clamp(max=0)).exp(), (size + squeeze.clamp(min=0)).exp()
    x, y = (_offset(side, u) for side in (width, height))
    angle = (next(u) * 2 - 1) * TURN
    cos, sin = angle.cos(), angle.sin()
    window = torch.cat([width * cos, -height * sin, 2 * x, width * sin, height * cos, 2 * y], dim=1).view(-1, 2, 3)
    page = _page(levels, u)
    grid = affine_grid(window / 3, list(levels.shape), align_corners=False)  # a page is three characters a side
    return grid_sample(page, grid, align_corners=False)


def _offset(side: Tensor, u: Iterator[Tensor]) -> Tensor:
    """Of a window's centre from the character's, in sides of the character."""
    return (next(u) - 0.5) * (side - 1).clamp(min=0) + (next(u) * 2 - 1) * OFF_CENTRE


def _page(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """The character among its neighbours above and below, or left and right, [B, 1, 192, 192]."""
    page = pad(levels, (IMAGE_SIZE,) * 4)
    column = next(u) < 0.7  # most neighbours stand in the same column
    there = next(u) < NEIGHBOURS
    neighbour = levels.flip(2, 3)
    middle = slice(IMAGE_SIZE, 2 * IMAGE_SIZE)
    before, after = slice(None, IMAGE_SIZE - GAP), slice(2 * IMAGE_SIZE + GAP, None)
    for place, part in ((before, slice(GAP, None)), (after, slice(-GAP))):
        present = there * (next(u) < 0.8)
        page[:, :, place, middle] = neighbour[:, :, part] * present * column
        page[:, :, middle, place] = neighbour[:, :, :, part] * present * ~column
    return page


def _bleed(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """The ink of the page's other side, weaker and mirrored."""
    strength = next(u) * 0.5 * (next(u) < BLEEDING)
    return torch.maximum(levels, levels.flip(3) * strength)


def _line(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """Lines along one edge or all: rules between columns, frames, a scanner's black surround."""
    there, all_round, strength = next(u) < LINES, next(u) < 0.4, next(u) * 0.6 + 0.4
    width, only = next(u) * 4, next(u) * 4
    along = torch.arange(IMAGE_SIZE, device=levels.device, dtype=torch.float32)
    for edge, distance in enumerate((along, along.flip(0), along[:, None], along.flip(0)[:, None])):
        start = next(u) * 5 - 1
        inside = torch.minimum(distance + 1 - start, start + width - distance).clamp(0, 1)
        levels = torch.maximum(levels, inside * strength * (there & (all_round | (only.floor() == edge))))
    return levels


def _blur(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """Out of focus, or enlarged from a few pixels."""
    deviation = 0.05 + BLUR * next(u) * (next(u) < BLURRED)
    steps = torch.arange(-REACH, REACH + 1, device=levels.device, dtype=torch.float32)
    weights = (-0.5 * (steps / deviation) ** 2).exp()
    weights = weights / weights.sum(3, keepdim=True)  # [B, 1, 1, 11]
    each = levels.transpose(0, 1)  # the images as channels of one, each with weights of its own
    each = conv2d(each, weights, padding=(0, REACH), groups=len(levels))
    return conv2d(each, weights.transpose(2, 3), padding=(REACH, 0), groups=len(levels)).transpose(0, 1)


def _harden(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """Edges made steep again, and strokes thinner or thicker by it: holes in them close, or they break."""
    there, middle, gain = next(u) < HARD, 0.3 + 0.4 * next(u), 1 + 2 * next(u)
    return torch.where(there, (levels - middle) * gain + 0.5, levels).clamp(0, 1)


def _shade(levels: Tensor, u: Iterator[Tensor]) -> Tensor:
    """Paper that is not black yet in a part of the image: a gradient, or a shadow with an edge."""
    strength = next(u) * 0.35 * (next(u) < SHADED)
    angle, edge, sharpness = next(u) * 2 * torch.pi, next(u) - 0.5, 4 ** (next(u) * 3 - 0.5)
    place = (torch.arange(IMAGE_SIZE, device=levels.device, dtype=torch.float32) + 0.5) / IMAGE_SIZE - 0.5
    across = place * angle.cos() + place[:, None] * angle.sin() - edge
    paper = strength * (across * sharpness + 0.5).clamp(0, 1)
    return paper + (1 - paper) * levels
