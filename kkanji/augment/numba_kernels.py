"""The compiled loops of `kkanji.augment.policy`: an image stays in the processor's cache, no GIL is held.

Numba compiles them at first use and keeps the result beside this file. It infers their types, so they carry none:
policy is float32 [8] in the order of Policy's fields, rows float32 [n, ROW], images and out uint8 [n, 64, 64].
No fastmath: whether products and sums are fused would depend on the processor, and with it the images.
"""

import numpy as np
from numba import njit

from shards.format.layout import IMAGE_BYTES, IMAGE_SIZE
from shards.read.copy_kernels import copy_row, copy_rows

NODES = 5  # nodes a side of the elastic grid, 16 px apart: about the width of a stroke group in a 64 px character
GRID_START = 12
ROW = GRID_START + 2 * NODES * NODES
CENTRE = np.float32((IMAGE_SIZE - 1) / 2)
SPACING = np.float32((IMAGE_SIZE - 1) / (NODES - 1))
CELL = IMAGE_SIZE // (NODES - 1)  # pixels between nodes: 16 each
WITHIN = np.array([x / SPACING - x // CELL for x in range(IMAGE_SIZE)], np.float32)  # where a pixel lies in its cell
FRAMED = IMAGE_SIZE + 2  # an image with a frame of one black pixel


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
    """Images from where they lie in memory (PackedReader.locate) to out [n, 64, 64, 1]."""
    copy_rows(addresses, out.ctypes.data, IMAGE_BYTES)


@njit(nogil=True)
def apply_from(addresses, rows, out):
    """The same, augmented on the way: one image at a time, which stays in the processor's cache."""
    image = np.empty((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for i in range(len(addresses)):
        copy_row(addresses, i, image.ctypes.data, IMAGE_BYTES)
        apply(image, rows[i : i + 1], out[i].reshape(1, IMAGE_SIZE, IMAGE_SIZE))


@njit(cache=True, nogil=True)
def _warp(image, row, out):
    """Bilinear resampling of the image at affine plus elastic coordinates; black outside.

    Stage after stage, a line of pixels at a time: a loop that does one thing to arrays becomes vector instructions.
    The whole policy, all at once for each pixel: 60 us an image; so: 10 us (one core of an EPYC with AVX-512).
    """
    fours, bands = _fours(image), _bands(row)
    places, found = np.empty((2, IMAGE_SIZE), np.float32), np.empty(IMAGE_SIZE, np.uint32)
    for y in range(IMAGE_SIZE):
        _place(bands[0], y, places[0])
        _place(bands[1], y, places[1])
        _fetch(fours, places, found)
        _blend(found, places, out[y])


@njit(cache=True)
def _fours(image):
    """Each pixel with its right, lower and lower right neighbours, uint32 [FRAMED * FRAMED]: a sample is one load.

    A frame of black pixels stands for everything outside.
    """
    framed = np.zeros((FRAMED + 2, FRAMED), np.uint8)
    for y in range(image.shape[0]):  # not range(IMAGE_SIZE): LLVM unrolls what it can count, and vectorises no more
        for x in range(image.shape[1]):
            framed[y + 1, x + 1] = image[y, x]
    flat, fours = framed.reshape(-1), np.empty(FRAMED * FRAMED, np.uint32)
    for i in range(len(fours)):
        above = np.uint32(flat[i]) | np.uint32(flat[i + 1]) << np.uint32(8)
        below = np.uint32(flat[i + FRAMED]) | np.uint32(flat[i + FRAMED + 1]) << np.uint32(8)
        fours[i] = above | below << np.uint32(16)
    return fours


@njit(cache=True)
def _bands(row):
    """Where pixels on the elastic grid's horizontal lines are taken from, [2, NODES, 64]: x before y, frame counted."""
    bands = np.empty((2, NODES, IMAGE_SIZE), np.float32)
    for axis in range(2):
        along_x, along_y, shift = row[3 * axis], row[3 * axis + 1], row[3 * axis + 2] + CENTRE + np.float32(1)
        for line in range(NODES):
            first = GRID_START + (axis * NODES + line) * NODES
            start = along_y * (SPACING * np.float32(line) - CENTRE) + shift
            for x in range(IMAGE_SIZE):
                node, t = first + x // CELL, WITHIN[x]
                elastic = row[node] + t * (row[node + 1] - row[node])
                bands[axis, line, x] = along_x * (np.float32(x) - CENTRE) + start + elastic
    return bands


@njit(cache=True)
def _place(bands, y, places):
    """Where the pixels of row y are taken from, along one axis: between two lines, and outside from the frame.

    That is exact for the affine part too, which is linear.
    """
    above, below, t = bands[y // CELL], bands[y // CELL + 1], WITHIN[y]
    for x in range(IMAGE_SIZE):
        place = above[x] + t * (below[x] - above[x])
        place = place if place > 0 else np.float32(0)  # this way round for the sake of nan: nothing guards _fetch
        places[x] = min(place, np.float32(FRAMED - 1))


@njit(cache=True)
def _fetch(fours, places, found):
    """The fours of a row of pixels. In two loops, as only the first one becomes vector instructions."""
    for x in range(IMAGE_SIZE):
        found[x] = np.int32(places[1, x]) * np.int32(FRAMED) + np.int32(places[0, x])
    for x in range(IMAGE_SIZE):
        found[x] = fours[found[x]]


@njit(cache=True)
def _blend(found, places, out):
    """Bilinear samples, rounded to gray levels."""
    for x in range(IMAGE_SIZE):
        fx, fy = places[0, x] - np.floor(places[0, x]), places[1, x] - np.floor(places[1, x])
        top_left, top_right = _byte(found[x], 0), _byte(found[x], 8)
        low_left, low_right = _byte(found[x], 16), _byte(found[x], 24)
        top = top_left + fx * (top_right - top_left)
        low = low_left + fx * (low_right - low_left)
        out[x] = np.uint8(np.int32(top + fy * (low - top) + np.float32(0.5)))


@njit(cache=True, inline="always")
def _byte(word, shift):
    return np.float32((word >> np.uint32(shift)) & np.uint32(255))


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
