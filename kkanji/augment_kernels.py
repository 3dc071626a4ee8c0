"""The compiled loops of `kkanji.augment`: one pass for each image, no copy between its stages, no GIL held.

Numba compiles them at first use and keeps the result beside this file. It infers their types, so they carry none:
policy is float32 [8] in the order of Policy's fields, rows float32 [n, ROW], images and out uint8 [n, 64, 64].
"""

import ctypes

import numpy as np
from numba import njit

from shards.layout import IMAGE_BYTES, IMAGE_SIZE

_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes, _memcpy.restype = [ctypes.c_size_t] * 3, ctypes.c_size_t

NODES = 5  # nodes a side of the elastic grid, 16 px apart: about the width of a stroke group in a 64 px character
GRID_START = 12
ROW = GRID_START + 2 * NODES * NODES
CENTRE = np.float32((IMAGE_SIZE - 1) / 2)
SPACING = np.float32((IMAGE_SIZE - 1) / (NODES - 1))


@njit(cache=True, inline="always")
def _bits(key, column):
    """64 random bits of a key and a column: splitmix64's finaliser."""
    x = key + np.uint64(column) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, inline="always")
def _uniform(key, column):
    """Uniform in [0, 1), 24 bits."""
    return np.float32(_bits(key, column) >> np.uint64(40)) * np.float32(2.0**-24)


@njit(cache=True, inline="always")
def _symmetric(key, column):
    """Uniform in [-1, 1)."""
    return np.float32(2) * _uniform(key, column) - np.float32(1)


@njit(cache=True, inline="always")
def _normal(key, column):
    """Near-normal, mean 0, variance 1: the sum of the four 16-bit parts of one draw (tails end at 3.46)."""
    bits, total = _bits(key, column), np.uint64(0)
    for part in range(4):
        total += (bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)
    return (np.float32(total) * np.float32(2.0**-16) - np.float32(2)) * np.float32(1.7320508)


@njit(cache=True, nogil=True)
def draw(policy, seed, positions, rows):
    elastic, degrees, shear, scale, shift, noise, erase_share, erase_px = policy
    seed_key = _bits(seed, 1)
    for i in range(len(positions)):
        key, row = _bits(seed_key, positions[i]), rows[i]
        angle = np.deg2rad(degrees * _symmetric(key, 1))
        slant = shear * _symmetric(key, 2)
        wide, high = np.exp(-scale * _symmetric(key, 3)), np.exp(-scale * _symmetric(key, 4))
        cos, sin = np.cos(angle), np.sin(angle)
        row[0], row[1] = wide * cos, wide * (slant * cos - sin)
        row[3], row[4] = high * sin, high * (slant * sin + cos)
        row[2], row[5] = shift * _symmetric(key, 5), shift * _symmetric(key, 6)
        row[6] = noise * _uniform(key, 7)
        left, top = IMAGE_SIZE * _uniform(key, 8), IMAGE_SIZE * _uniform(key, 9)
        erased = np.float32(1) if _uniform(key, 10) < erase_share else np.float32(0)
        half_width = np.float32(0.5) * erased * erase_px * _uniform(key, 11)
        half_height = np.float32(0.5) * erased * erase_px * _uniform(key, 12)
        row[7], row[8], row[9], row[10] = left - half_width, top - half_height, left + half_width, top + half_height
        row[11] = np.float32(_bits(key, 13) >> np.uint64(40))
        for node in range(2 * NODES * NODES):
            row[GRID_START + node] = elastic * _normal(key, 14 + node)


@njit(cache=True, nogil=True)
def apply(images, rows, out):
    for i in range(len(images)):
        _warp(images[i], rows[i], out[i])
        _erase(rows[i], out[i])
        if rows[i, 6] > 0:
            _add_noise(rows[i], out[i])


@njit(nogil=True)
def copy_from(addresses, out):
    """Images from where they lie in memory (SplitReader.locate) to out [n, 64, 64, 1]."""
    for i in range(len(addresses)):
        _memcpy(out[i].ctypes.data, addresses[i], IMAGE_BYTES)


@njit(nogil=True)
def apply_from(addresses, rows, out):
    """The same, augmented on the way: one image at a time, which stays in the processor's cache."""
    image = np.empty((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for i in range(len(addresses)):
        _memcpy(image.ctypes.data, addresses[i], IMAGE_BYTES)
        apply(image, rows[i : i + 1], out[i].reshape(1, IMAGE_SIZE, IMAGE_SIZE))


@njit(cache=True, nogil=True)
def _warp(image, row, out):
    """Bilinear resampling of the image at affine plus elastic coordinates; black outside."""
    size, last = IMAGE_SIZE, np.float32(IMAGE_SIZE - 1)
    shift_x, shift_y = np.empty(NODES, np.float32), np.empty(NODES, np.float32)
    for y in range(size):
        _grid_row(row, y, shift_x, shift_y)
        v = np.float32(y) - CENTRE
        start_x, start_y = row[1] * v + row[2] + CENTRE, row[4] * v + row[5] + CENTRE
        for x in range(size):
            u = np.float32(x) - CENTRE
            cell = np.float32(x) / SPACING
            node = min(np.int32(cell), np.int32(NODES - 2))
            t = cell - np.float32(node)
            sx = row[0] * u + start_x + shift_x[node] + t * (shift_x[node + 1] - shift_x[node])
            sy = row[3] * u + start_y + shift_y[node] + t * (shift_y[node + 1] - shift_y[node])
            if sx <= np.float32(-1) or sy <= np.float32(-1) or sx >= last + np.float32(1) or sy >= last + np.float32(1):
                out[y, x] = 0
            else:
                out[y, x] = np.uint8(_bilinear(image, sx, sy) + np.float32(0.5))


@njit(cache=True, inline="always")
def _grid_row(row, y, shift_x, shift_y):
    """The elastic displacements of the nodes' columns at pixel row y."""
    cell = np.float32(y) / SPACING
    node = min(np.int32(cell), np.int32(NODES - 2))
    t = cell - np.float32(node)
    for column in range(NODES):
        above = GRID_START + node * NODES + column
        shift_x[column] = row[above] + t * (row[above + NODES] - row[above])
        above += NODES * NODES
        shift_y[column] = row[above] + t * (row[above + NODES] - row[above])


@njit(cache=True, inline="always")
def _bilinear(image, sx, sy):
    """The image at (sx, sy), both above -1 and below 64; pixels outside count as black."""
    x0, y0 = np.int32(np.floor(sx)), np.int32(np.floor(sy))
    fx, fy = sx - np.float32(x0), sy - np.float32(y0)
    x1_inside, x0_inside = x0 + 1 < IMAGE_SIZE, x0 >= 0
    top = bottom = np.float32(0)
    if y0 >= 0:
        left = np.float32(image[y0, x0]) if x0_inside else np.float32(0)
        right = np.float32(image[y0, x0 + 1]) if x1_inside else np.float32(0)
        top = left + fx * (right - left)
    if y0 + 1 < IMAGE_SIZE:
        left = np.float32(image[y0 + 1, x0]) if x0_inside else np.float32(0)
        right = np.float32(image[y0 + 1, x0 + 1]) if x1_inside else np.float32(0)
        bottom = left + fx * (right - left)
    return top + fy * (bottom - top)


@njit(cache=True, inline="always")
def _erase(row, out):
    """Blacken the pixels whose centres lie in the box."""
    left, top = max(np.int32(np.ceil(row[7])), 0), max(np.int32(np.ceil(row[8])), 0)
    right, bottom = min(np.int32(np.ceil(row[9])), IMAGE_SIZE), min(np.int32(np.ceil(row[10])), IMAGE_SIZE)
    for y in range(top, bottom):
        for x in range(left, right):
            out[y, x] = 0


@njit(cache=True, inline="always")
def _add_noise(row, out):
    """Near-normal noise from a hash of (key, pixel): the four bytes of 32 mixed bits, summed."""
    key, flat = np.uint32(row[11]), out.reshape(-1)
    scale = row[6] * np.float32(1.7320508 / 256)
    for pixel in range(len(flat)):
        bits = _pixel_bits(key, np.uint32(pixel))
        pairs = np.uint32((bits & np.uint32(0x00FF00FF)) + ((bits >> np.uint32(8)) & np.uint32(0x00FF00FF)))
        total = np.int32((pairs + (pairs >> np.uint32(16))) & np.uint32(0xFFFF))
        value = np.float32(flat[pixel]) + scale * np.float32(total - np.int32(510))
        flat[pixel] = np.uint8(min(max(value + np.float32(0.5), np.float32(0)), np.float32(255)))


@njit(cache=True, inline="always")
def _pixel_bits(key, pixel):
    """32 mixed bits of a 24-bit key and a pixel number (lowbias32, Wellons 2018). Numba widens uint32 products."""
    x = np.uint32(key * np.uint32(0x9E3779B1) + pixel * np.uint32(0x85EBCA6B))
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))
