"""How image files are prepared (kkanji/inference/ink.py), as far as tensor operations go: what an ONNX file carries.

Polarity, local paper, contrast, crop and layout are here, all at one working size; filters are matrices. What needs
connected parts stays with image files: strips, frames, rules, seals and neighbours are not taken out, nor is blur.
Reading a file, its orientation and its transparency stay with the file's reader.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad

from shards.format.layout import IMAGE_SIZE

WORK = 320  # pixels of the longer side while the character is looked for
COARSE, LOCAL = 4, 49  # of these for one; and of the coarse ones, what paper is compared with to tell ink from it
CLOSING = 96  # of these: no stroke is as wide
KERNEL = (0.0011, 0.0076, 0.0361, 0.1096, 0.2134, 0.2644, 0.2134, 0.1096, 0.0361, 0.0076, 0.0011)  # deviation 1.5
DARK, FAINTEST = 0.9, 0.06  # quantile of ink that becomes white; least contrast of ink
LOW, HIGH = 0.3, 0.8  # densities that become black and white
USUAL = 0.87  # width of the data's characters by their height


class Preparation(nn.Module):
    """Gray images of any size, dark on light or light on dark, to what the networks were trained on."""

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 [B, 1, H, W] to float32 [B, 1, 64, 64] of whole gray levels, white ink on black.

        Images like the data's, 64x64 and white on black, come out unchanged, and their negatives inverted.
        """
        levels = images.to(torch.float32)
        tall, broad = (torch.ones(1) * size for size in levels.shape[-2:])
        longest = torch.maximum(tall, broad)
        height, width = (size / longest * WORK for size in (tall, broad))
        found = _laid_out(_density(_scaled(levels, height, width, WORK)) * _within(height, width))
        same = _scaled(levels, torch.ones(1) * IMAGE_SIZE, torch.ones(1) * IMAGE_SIZE, IMAGE_SIZE)
        for clean in (255 - same, same):
            is_same = _is_clean(clean) & (tall == IMAGE_SIZE) & (broad == IMAGE_SIZE)
            found = torch.where(is_same, clean, found)
        return found


def _is_clean(levels: Tensor) -> Tensor:
    """Whether images [B, 1, 64, 64] are like the data's, as bool [B, 1, 1, 1]; limits as in ink.py."""

    def part(holds: Tensor) -> Tensor:
        return holds.to(torch.float32).mean(dim=(2, 3), keepdim=True)

    black, white, ink = part(levels < 16), part(levels >= 240), levels > 128
    edges = torch.stack([part(ink[:, :, :1]), part(ink[:, :, -1:]), part(ink[..., :1]), part(ink[..., -1:])])
    few_between = (1 - black - white <= 0.55) & (part(ink) <= 0.67) & (edges.amax(dim=0) <= 0.95)
    return few_between & (black >= 0.2) & (levels.amax(dim=(2, 3), keepdim=True) >= 200)


# ---- the ink, on a canvas of WORK pixels: beside a narrow picture its last line goes on ----


def _scaled(levels: Tensor, height: Tensor, width: Tensor, canvas: int) -> Tensor:
    """Scaled to a height and a width [1], whole levels [B, 1, canvas, canvas]; beyond them the last line goes on."""
    none = torch.zeros(1)
    rows = _weights(none, none + levels.shape[-2], none, height.round().clamp(min=8), levels.shape[-2], canvas)
    columns = _weights(none, none + levels.shape[-1], none, width.round().clamp(min=8), levels.shape[-1], canvas)
    return _whole(rows @ levels @ columns.transpose(-1, -2))


def _within(height: Tensor, width: Tensor) -> Tensor:
    """The part of the canvas that the picture takes, bool [1, 1, WORK, WORK]."""
    places = torch.arange(WORK, dtype=torch.float32)
    return (places < height.round())[None, None, :, None] & (places < width.round())[None, None, None, :]


def _density(levels: Tensor) -> Tensor:
    """How much ink there is at each pixel of whole levels [B, 1, s, s], from 0 to 1."""
    coarse = avg_pool2d(levels, COARSE)
    beyond = coarse - avg_pool2d(coarse, LOCAL, stride=1, padding=LOCAL // 2, count_include_pad=False)
    light = (beyond**3).sum(dim=(2, 3), keepdim=True) > 0  # what stands out is bright
    dark = torch.where(light, 255 - levels, levels)
    kernel = torch.tensor(KERNEL)
    edge = len(KERNEL) // 2
    smooth = pad(dark, (edge, edge, edge, edge), mode="replicate")
    smooth = _whole(conv2d(conv2d(smooth, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)))
    paper = -_strongest(-_strongest(smooth, CLOSING), CLOSING)
    return _stretched(1 - torch.minimum(dark, paper) / paper.clamp(min=1))


def _strongest(levels: Tensor, side: int) -> Tensor:
    before, after = side // 2, side - 1 - side // 2
    padded = pad(levels, (before, after, before, after), value=-1000.0)
    return max_pool2d(max_pool2d(padded, (side, 1), stride=1), (1, side), stride=1)


def _stretched(ink: Tensor) -> Tensor:
    """The paper at 0 and most of the ink at 1, divided as Otsu does; all 0 where there is no contrast."""
    ordered = ink.flatten(1).sort(dim=1).values
    count = ordered.shape[1]
    below = torch.arange(1, count, dtype=torch.float32)
    sums = ordered.cumsum(dim=1)
    low_mean, high_mean = sums[:, :-1] / below, (sums[:, -1:] - sums[:, :-1]) / (count - below)
    split = (below * (count - below) * (high_mean - low_mean) ** 2).argmax(dim=1, keepdim=True) + 1
    low = ordered.gather(1, split // 2)
    high = ordered.gather(1, split + ((count - 1 - split) * DARK).long())
    low, high = low[:, :, None, None], high[:, :, None, None]
    share = (ink - low) / (high - low).clamp(min=FAINTEST)
    return ((share - LOW) / (HIGH - LOW)).clamp(0, 1) * (high - low >= FAINTEST)


# ---- the layout ----


def _laid_out(ink: Tensor) -> Tensor:
    """Cropped to the ink [B, 1, s, s] and scaled to 64 pixels in the longer side, centred, as whole levels."""
    mask = (ink > 0.5).to(torch.float32)
    mask = _strongest(-_strongest(-mask, 3), 3)  # without specks
    (top, bottom), (left, right) = _extent(mask.amax(dim=3)), _extent(mask.amax(dim=2))
    down, across = bottom - top, right - left
    wide = torch.maximum(across, (across * USUAL * down).sqrt())  # narrow characters become a little wider
    longest = torch.maximum(wide, down)
    height, width = ((size / longest * IMAGE_SIZE).round().clamp(min=1) for size in (down, wide))
    rows = _weights(top, bottom, ((IMAGE_SIZE - height) / 2).floor(), height, ink.shape[2], IMAGE_SIZE)
    columns = _weights(left, right, ((IMAGE_SIZE - width) / 2).floor(), width, ink.shape[3], IMAGE_SIZE)
    return _whole(rows @ ink @ columns.transpose(-1, -2) * 255)


def _extent(lines: Tensor) -> tuple[Tensor, Tensor]:
    """Where the first and after the last of lines [B, 1, s] with ink are, [B] each; all of them if none has any."""
    lines = lines[:, 0]
    size = lines.shape[1]
    some = lines.amax(dim=1) > 0
    places = torch.arange(size, dtype=torch.float32)
    first = torch.where(lines > 0, places, torch.ones(()) * size).amin(dim=1)
    end = torch.where(lines > 0, places + 1, torch.zeros(())).amax(dim=1)
    return torch.where(some, first, 0.0), torch.where(some, end, 1.0 * size)


def _weights(start: Tensor, end: Tensor, offset: Tensor, target: Tensor, size: int, places: int) -> Tensor:
    """Weights [B, 1, places, size] that scale pixels from `start` to `end` to `target` pixels from `offset` on.

    start, end, offset, target: [B]. Areas where it becomes smaller, linear where larger. Beyond the target there is
    nothing, unless it begins at 0 of all: then the last line goes on, as paper does.
    """
    start, end, offset, target = (each.view(-1, 1, 1, 1) for each in (start, end, offset, target))
    scale = (end - start) / target
    place = torch.arange(places, dtype=torch.float32).view(1, 1, -1, 1) - offset
    pixel = torch.arange(size, dtype=torch.float32).view(1, 1, 1, -1)
    inside = (place >= 0) & (place < target)
    if places == WORK:
        place, inside = torch.minimum(place, target - 1), inside | True
    low, high = start + place * scale, start + (place + 1) * scale
    areas = (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0) / scale
    centre = torch.maximum(torch.minimum(start + (place + 0.5) * scale - 0.5, end - 1), start)
    linear = (1 - (pixel - centre).abs()).clamp(min=0)
    return torch.where(scale >= 1, areas, linear) * inside


def _whole(levels: Tensor) -> Tensor:
    """Levels as 8 bits hold them."""
    return levels.round().clamp(0, 255)
