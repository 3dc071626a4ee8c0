"""The augmentation policy on the CPU, compiled by Numba: the reference that the Triton kernel must match bit for bit.

All steps are done to one image while it stays in the processor's cache, and the GIL is released.

Numba compiles these functions at first use and keeps the machine code beside this file. It infers their types, so they
have no annotations: policy is float32 [8] in the order of Policy's fields, rows float32 [n, ROW], images and out uint8
[n, 64, 64]. `kkanji.augment.policy` documents a row.

fastmath stays off: with it, the processor would decide whether products and sums are fused, and images would differ
from one machine to another.
"""

import numpy as np
from numba import njit

from shards.compiled import compiled
from shards.format.layout import IMAGE_BYTES, IMAGE_SIZE
from shards.read.copy_kernels import copy_row, copy_rows

NODES = 5  # nodes along each side of the elastic grid: some 16 px between them, about the width of a stroke group
GRID_START = 12  # column of a row where the grid's displacements start
ROW = GRID_START + 2 * NODES * NODES  # columns of a row
CENTRE = np.float32((IMAGE_SIZE - 1) / 2)
SPACING = np.float32((IMAGE_SIZE - 1) / (NODES - 1))  # pixels between nodes: 15.75, as the outer ones are at 0 and 63
CELL = IMAGE_SIZE // (NODES - 1)  # pixels in a cell of the grid: 16
WITHIN = np.array([x / SPACING - x // CELL for x in range(IMAGE_SIZE)], np.float32)  # pixel's place in its cell, 0 to 1
FRAMED = IMAGE_SIZE + 2  # side of an image with a frame of one black pixel


@compiled(inline="always")
def _bits(key, column):
    """64 random bits from a key and a column: the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).

    A counter-based generator has no state, so an image's numbers do not depend on which images came before it.
    """
    x = key + np.uint64(column) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled(inline="always")
def _uniform(key, column):
    """Uniform in [0, 1), of 24 random bits: as many as float32 holds exactly."""
    return np.float32(_bits(key, column) >> np.uint64(40)) * np.float32(2.0**-24)


@compiled(inline="always")
def _symmetric(key, column):
    """Uniform in [-1, 1)."""
    return np.float32(2) * _uniform(key, column) - np.float32(1)


@compiled(inline="always")
def _normal(key, column):
    """Near-normal with mean 0 and variance 1: the sum of four uniform numbers of 16 bits. Its tails end at 3.46."""
    bits = _bits(key, column)
    total = np.uint64(0)
    for part in range(4):
        total += (bits >> np.uint64(16 * part)) & np.uint64(0xFFFF)
    # Four uniform numbers in [0, 1) have mean 2 and variance 1/3.
    return (np.float32(total) * np.float32(2.0**-16) - np.float32(2)) * np.float32(1.7320508)


@compiled(nogil=True)
def sample_uniform(seed, first, out):
    """Fill out [n, K] with numbers in [0, 1) for the n images from this position of the sample stream on.

    They are others than `sample` takes: its keys come from column 1 of the seed.
    """
    seed_key = _bits(seed, 2)
    for i in range(out.shape[0]):
        key = _bits(seed_key, first + i)
        for column in range(out.shape[1]):
            out[i, column] = _uniform(key, column)


@compiled(nogil=True)
def sample(policy, seed, positions, rows):
    """Fill rows [n, ROW] for the images at positions [n] of the sample stream."""
    elastic, degrees, shear, scale, shift, noise, erase_probability, erase_px = policy
    seed_key = _bits(seed, 1)
    for i in range(len(positions)):
        key = _bits(seed_key, positions[i])
        row = rows[i]
        # Output pixels look up their source, so the map is the inverse: scale by 1/width and 1/height, rotate back.
        angle = np.deg2rad(degrees * _symmetric(key, 1))
        slant = shear * _symmetric(key, 2)
        inverse_width = np.exp(-scale * _symmetric(key, 3))
        inverse_height = np.exp(-scale * _symmetric(key, 4))
        cos = np.cos(angle)
        sin = np.sin(angle)
        row[0] = inverse_width * cos
        row[1] = inverse_width * (slant * cos - sin)
        row[2] = shift * _symmetric(key, 5)
        row[3] = inverse_height * sin
        row[4] = inverse_height * (slant * sin + cos)
        row[5] = shift * _symmetric(key, 6)
        row[6] = noise * _uniform(key, 7)
        centre_x = IMAGE_SIZE * _uniform(key, 8)
        centre_y = IMAGE_SIZE * _uniform(key, 9)
        erased = np.float32(1) if _uniform(key, 10) < erase_probability else np.float32(0)
        half_width = np.float32(0.5) * erased * erase_px * _uniform(key, 11)
        half_height = np.float32(0.5) * erased * erase_px * _uniform(key, 12)
        row[7] = centre_x - half_width
        row[8] = centre_y - half_height
        row[9] = centre_x + half_width
        row[10] = centre_y + half_height
        row[11] = np.float32(_bits(key, 13) >> np.uint64(40))  # 24 bits, which float32 holds exactly
        for node in range(2 * NODES * NODES):
            row[GRID_START + node] = elastic * _normal(key, 14 + node)


@compiled(nogil=True)
def apply(images, rows, out):
    """Augment images [n, 64, 64] by rows [n, ROW] into out, on the calling thread."""
    for i in range(len(images)):
        _warp(images[i], rows[i], out[i])
        _erase(rows[i], out[i])
        if rows[i, 6] > 0:
            _add_noise(rows[i], out[i])


@njit(nogil=True)
def copy_from(addresses, out):
    """Copy images from their addresses in memory (PackedReader.locate) to out [n, 64, 64, 1]."""
    copy_rows(addresses, out.ctypes.data, IMAGE_BYTES)


@njit(nogil=True)
def apply_from(addresses, rows, out):
    """Copy and augment one image at a time, so that it stays in the processor's cache between the two."""
    image = np.empty((1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for i in range(len(addresses)):
        copy_row(addresses, i, image.ctypes.data, IMAGE_BYTES)
        apply(image, rows[i : i + 1], out[i].reshape(1, IMAGE_SIZE, IMAGE_SIZE))


@compiled(nogil=True)
def _warp(image, row, out):
    """Bilinear resampling of the image at affine plus elastic coordinates; black outside.

    Each stage runs over a line of 64 pixels: a loop that does one thing to arrays becomes vector instructions. With all
    stages in one loop over the pixels an image took 60 us, in this way 10 us (one core of an EPYC with AVX-512).
    """
    fours = _fours(image)
    bands = _bands(row)
    places = np.empty((2, IMAGE_SIZE), np.float32)  # source coordinates of a line of pixels, x before y
    found = np.empty(IMAGE_SIZE, np.uint32)
    for y in range(IMAGE_SIZE):
        _place(bands[0], y, places[0])
        _place(bands[1], y, places[1])
        _fetch(fours, places, found)
        _blend(found, places, out[y])


@compiled()
def _fours(image):
    """Each pixel packed with its right, lower and lower right neighbours, uint32 [FRAMED * FRAMED].

    So a bilinear sample is one load instead of four. A frame of black pixels stands for everything outside the image.
    """
    framed = np.zeros((FRAMED + 2, FRAMED), np.uint8)
    for y in range(image.shape[0]):  # not range(IMAGE_SIZE): LLVM would unroll a loop of known length, not vectorise it
        for x in range(image.shape[1]):
            framed[y + 1, x + 1] = image[y, x]
    flat = framed.reshape(-1)
    fours = np.empty(FRAMED * FRAMED, np.uint32)
    for i in range(len(fours)):
        above = np.uint32(flat[i]) | np.uint32(flat[i + 1]) << np.uint32(8)
        below = np.uint32(flat[i + FRAMED]) | np.uint32(flat[i + FRAMED + 1]) << np.uint32(8)
        fours[i] = above | below << np.uint32(16)
    return fours


@compiled()
def _bands(row):
    """Source coordinates in the framed image of the pixels on the elastic grid's horizontal lines.

    float32 [2, NODES, 64], x before y.
    """
    bands = np.empty((2, NODES, IMAGE_SIZE), np.float32)
    for axis in range(2):
        along_x = row[3 * axis]
        along_y = row[3 * axis + 1]
        shift = row[3 * axis + 2] + CENTRE + np.float32(1)  # one pixel more for the frame
        for line in range(NODES):
            first = GRID_START + (axis * NODES + line) * NODES
            start = along_y * (SPACING * np.float32(line) - CENTRE) + shift
            for x in range(IMAGE_SIZE):
                node = first + x // CELL
                t = WITHIN[x]
                elastic = row[node] + t * (row[node + 1] - row[node])
                bands[axis, line, x] = along_x * (np.float32(x) - CENTRE) + start + elastic
    return bands


@compiled()
def _place(bands, y, places):
    """Source coordinates of the pixels in line y along one axis, clamped to the frame.

    They are interpolated between the grid lines above and below. The affine part is linear, so it stays exact.
    """
    above = bands[y // CELL]
    below = bands[y // CELL + 1]
    t = WITHIN[y]
    for x in range(IMAGE_SIZE):
        place = above[x] + t * (below[x] - above[x])
        place = place if place > 0 else np.float32(0)  # a nan becomes 0 as well: _fetch does not check its indexes
        places[x] = min(place, np.float32(FRAMED - 1))


@compiled()
def _fetch(fours, places, found):
    """Look up the fours of a line of pixels. In two loops, as only the first one becomes vector instructions."""
    for x in range(IMAGE_SIZE):
        found[x] = np.int32(places[1, x]) * np.int32(FRAMED) + np.int32(places[0, x])
    for x in range(IMAGE_SIZE):
        found[x] = fours[found[x]]


@compiled()
def _blend(found, places, out):
    """Interpolate the four neighbours bilinearly, and round to gray levels."""
    for x in range(IMAGE_SIZE):
        fx = places[0, x] - np.floor(places[0, x])
        fy = places[1, x] - np.floor(places[1, x])
        top_left = _byte(found[x], 0)
        top_right = _byte(found[x], 8)
        low_left = _byte(found[x], 16)
        low_right = _byte(found[x], 24)
        top = top_left + fx * (top_right - top_left)
        low = low_left + fx * (low_right - low_left)
        out[x] = np.uint8(np.int32(top + fy * (low - top) + np.float32(0.5)))


@compiled(inline="always")
def _byte(word, shift):
    return np.float32((word >> np.uint32(shift)) & np.uint32(255))


@compiled(inline="always")
def _erase(row, out):
    """Set the pixels with their centre in the box to black."""
    left = max(np.int32(np.ceil(row[7])), 0)
    top = max(np.int32(np.ceil(row[8])), 0)
    right = min(np.int32(np.ceil(row[9])), IMAGE_SIZE)
    bottom = min(np.int32(np.ceil(row[10])), IMAGE_SIZE)
    for y in range(top, bottom):
        for x in range(left, right):
            out[y, x] = 0


@compiled(inline="always")
def _add_noise(row, out):
    """Add near-normal noise: for each pixel the sum of the four bytes of a hash of (key, pixel)."""
    key = np.uint32(row[11])
    flat = out.reshape(-1)
    scale = row[6] * np.float32(1.7320508 / 256)  # the sum of four uniform bytes deviates by 256 / sqrt(3)
    for pixel in range(len(flat)):
        bits = _pixel_bits(key, np.uint32(pixel))
        # Two bytes are added at a time, each pair in 16 bits of its own.
        pairs = np.uint32((bits & np.uint32(0x00FF00FF)) + ((bits >> np.uint32(8)) & np.uint32(0x00FF00FF)))
        total = np.int32((pairs + (pairs >> np.uint32(16))) & np.uint32(0xFFFF))
        value = np.float32(flat[pixel]) + scale * np.float32(total - np.int32(510))
        flat[pixel] = np.uint8(min(max(value + np.float32(0.5), np.float32(0)), np.float32(255)))


@compiled(inline="always")
def _pixel_bits(key, pixel):
    """32 mixed bits of a 24-bit key and a pixel number: lowbias32 (Wellons, hash-prospector, 2018).

    Numba widens products of uint32 to 64 bits, so each is cast back.
    """
    x = np.uint32(key * np.uint32(0x9E3779B1) + pixel * np.uint32(0x85EBCA6B))
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))
