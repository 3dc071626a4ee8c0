"""The augmentation policy as one Triton kernel: it reads an image once, warps it, erases a box, adds noise, writes it.

The kernel follows the reference, `kkanji.augment.numba_kernels`, operation by operation, and is compiled without fused
multiply-add. In Triton's interpreter its images equal the reference's bit for bit. Only the GPU pipeline imports this
module, so a machine without a GPU neither needs nor loads Triton.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kkanji.augment import numba_kernels
from shards.format.layout import IMAGE_SIZE

# A Triton kernel may use globals only if they are tl.constexpr.
SIZE = tl.constexpr(IMAGE_SIZE)
ROW = tl.constexpr(numba_kernels.ROW)
GRID_START = tl.constexpr(numba_kernels.GRID_START)
NODES = tl.constexpr(numba_kernels.NODES)
CELL = tl.constexpr(numba_kernels.CELL)
CENTRE = tl.constexpr(float(numba_kernels.CENTRE))
SPACING = tl.constexpr(float(numba_kernels.SPACING))
NOISE_UNIT = tl.constexpr(1.7320508 / 256)

# Four warps, that is 8 pixels a thread. Fewer warps spill or take 219 registers; eight run 14 % more instructions
# (docs/LOG.md, 2026-11-30). Fused multiply-add would round differently from the reference.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def augment(images: Tensor, rows: Tensor, index: Tensor | None = None) -> Tensor:
    """Augment images uint8 [N, 64, 64] by rows float32 [n, ROW]; returns [n, 64, 64].

    The work is queued on the current stream of the images' device.

    index: int64 [n], the image that each row is applied to; without it row i is applied to image i, and n is N. The
    caller must make sure that it lies within 0 to N - 1: a check here would make the host wait for the device.
    Raises ValueError for other shapes, types or devices.
    """
    _check(images, rows, index)
    augmented = torch.empty((len(rows), IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=images.device)
    if len(rows):
        with torch.cuda.device_of(images):  # Triton launches on the current device, not on that of the tensors
            augment_kernel[len(rows), NODES.value - 1](images, rows, index, augmented, len(images), **OPTIONS)
    return augmented


def _check(images: Tensor, rows: Tensor, index: Tensor | None) -> None:
    _check_tensor("images", images, torch.uint8, (*images.shape[:1], IMAGE_SIZE, IMAGE_SIZE), images.device)
    if index is not None:
        _check_tensor("index", index, torch.int64, tuple(index.shape[:1]), images.device)
    count = len(images) if index is None else len(index)
    _check_tensor("rows", rows, torch.float32, (count, numba_kernels.ROW), images.device)
    if images.device.type == "cpu" and isinstance(augment_kernel, triton.JITFunction):
        raise ValueError("images on cpu; expected a GPU, or TRITON_INTERPRET=1 in the environment before the import")


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    found = tensor.dtype, tuple(tensor.shape), tensor.device
    if found != (dtype, shape, device) or not tensor.is_contiguous():
        layout = "" if tensor.is_contiguous() else "not contiguous "
        raise ValueError(
            f"{name}: {layout}{found[0]} {list(found[1])} on {found[2]}; expected {dtype} {list(shape)} on {device}"
        )


@triton.jit(do_not_specialize=["count"])
def augment_kernel(images, rows, index, augmented, count):
    """One program computes the pixels between two horizontal lines of the elastic grid: [CELL, SIZE] of one image."""
    number = tl.program_id(0).to(tl.int64)
    line = tl.program_id(1)
    row = rows + number * ROW
    source = number
    if index is not None:
        source = tl.load(index + number)
    x = tl.arange(0, SIZE)[None, :]
    y = line * CELL + tl.arange(0, CELL)[:, None]
    place_x = _place(row, 0, line, x, y)
    place_y = _place(row, 1, line, x, y)
    width = tl.where((source >= 0) & (source < count), SIZE, 0)  # a wrong index yields a black image, and reads nothing
    gray = _sample(images + source * (SIZE * SIZE), width, place_x, place_y)
    gray = tl.where(_inside_box(row, x, y), 0.0, gray)
    gray = gray + _noise(row, y * SIZE + x)
    gray = tl.minimum(tl.maximum(gray + 0.5, 0.0), 255.0)
    tl.store(augmented + number * (SIZE * SIZE) + y * SIZE + x, gray.to(tl.uint8))


@triton.jit
def _place(row, axis, line, x, y):
    """Source coordinates of pixels along one axis in the framed image, interpolated between two lines of the grid."""
    above = _band(row, axis, line, x)
    below = _band(row, axis, line + 1, x)
    place = above + _within_cell(y) * (below - above)
    place = tl.where(place > 0, place, 0.0)  # a nan becomes 0 as well
    return tl.minimum(place, SIZE + 1.0)


@triton.jit
def _band(row, axis, line, x):
    """Source coordinates of the pixels on a horizontal line of the grid."""
    along_x = tl.load(row + 3 * axis)
    along_y = tl.load(row + 3 * axis + 1)
    shift = tl.load(row + 3 * axis + 2) + CENTRE + 1.0  # one pixel more for the frame
    start = along_y * (SPACING * line.to(tl.float32) - CENTRE) + shift
    node = row + GRID_START + (axis * NODES + line) * NODES + x // CELL
    left = tl.load(node)
    elastic = left + _within_cell(x) * (tl.load(node + 1) - left)
    return along_x * (x.to(tl.float32) - CENTRE) + start + elastic


@triton.jit
def _within_cell(pixel):
    """Places of pixels in their cell of the grid, 0 to 1: numba_kernels.WITHIN, computed.

    A product in double precision rounds to the correct quotient for each of the 64 pixels. In single precision it would
    not, and a correctly rounded division takes branches.
    """
    nodes = (pixel.to(tl.float64) * (1 / SPACING)).to(tl.float32)
    return nodes - (pixel // CELL).to(tl.float32)


@triton.jit
def _sample(image, width, place_x, place_y):
    """Bilinear samples in whole gray levels; black outside, and everywhere if the width is 0."""
    left = tl.floor(place_x)
    top = tl.floor(place_y)
    fx = place_x - left
    fy = place_y - top
    x = left.to(tl.int32) - 1  # without the frame
    y = top.to(tl.int32) - 1
    top_left = _pixel(image, width, x, y)
    top_right = _pixel(image, width, x + 1, y)
    low_left = _pixel(image, width, x, y + 1)
    low_right = _pixel(image, width, x + 1, y + 1)
    upper = top_left + fx * (top_right - top_left)
    lower = low_left + fx * (low_right - low_left)
    return tl.floor(upper + fy * (lower - upper) + 0.5)


@triton.jit
def _pixel(image, width, x, y):
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < SIZE)
    return tl.load(image + y * SIZE + x, mask=inside, other=0).to(tl.float32)


@triton.jit
def _inside_box(row, x, y):
    """Whether the centres of pixels lie in the erased box."""
    inside_x = (x >= tl.load(row + 7)) & (x < tl.load(row + 9))
    inside_y = (y >= tl.load(row + 8)) & (y < tl.load(row + 10))
    return inside_x & inside_y


@triton.jit
def _noise(row, pixel):
    """Noise in gray levels: for each pixel the sum of the four bytes of its hash."""
    deviation = tl.load(row + 6)
    scale = tl.where(deviation > 0, deviation, 0.0) * NOISE_UNIT
    bits = _pixel_bits(tl.load(row + 11).to(tl.uint32), pixel.to(tl.uint32))
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + (bits >> 24)
    return scale * (total.to(tl.int32) - 510).to(tl.float32)


@triton.jit
def _pixel_bits(key, pixel):
    """32 mixed bits of a 24-bit key and a pixel number: lowbias32."""
    bits = key * 0x9E3779B1 + pixel * 0x85EBCA6B
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)
