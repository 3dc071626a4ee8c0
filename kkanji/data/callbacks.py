"""What DALI calls for each sample: C functions compiled by Numba once a machine, not once a process.

DALI's plugin for Numba compiles the functions that it is given anew for each operator of each process: 3 to 4 seconds
for a graph. These are kept on the disk like all compiled functions. Signatures are those of the plugin; of its batches
DALI passes a sample at a time.
"""

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from kkanji.augment import numba_kernels
from shards.compiled import callback, compiled
from shards.format.layout import IMAGE_SIZE
from shards.read import copy_kernels

_PLACE, _COUNT = types.uint64, types.int32
_SHAPES = types.void(_PLACE, _PLACE, _COUNT, _PLACE, _PLACE, _COUNT, _COUNT)
"""Addresses of shapes and dimensions, and number, of outputs; the same of inputs; number of samples."""
_RUN = types.void(_PLACE, _PLACE, _PLACE, _COUNT, _PLACE, _PLACE, _PLACE, _COUNT)
"""Addresses of pixels, shapes and dimensions, and number, of outputs; the same of inputs."""


# Numba infers the types of what follows.
@intrinsic
def _pointer(_context, address):
    """A pointer, as `carray` takes, to an address."""

    def generate(_target, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@compiled(inline="always")
def _integers(address, count):
    """int64 [count] at an address."""
    return carray(_pointer(address), count, np.int64)


@compiled(inline="always")
def _images(addresses, number, count):
    """Images uint8 [count, 64, 64] at the address of this number."""
    shape = (count, IMAGE_SIZE, IMAGE_SIZE)
    return carray(_pointer(_integers(addresses, number + 1)[number]), shape, np.uint8)


@compiled(inline="always")
def _rows(addresses, number, count):
    """Augmentation rows float32 [count, ROW] at the address of this number."""
    shape = (count, numba_kernels.ROW)
    return carray(_pointer(_integers(addresses, number + 1)[number]), shape, np.float32)


@compiled(inline="always")
def _length(shapes, number):
    """Length of the first axis of the sample's part of this number."""
    return _integers(_integers(shapes, number + 1)[number], 1)[0]


@callback(_SHAPES)
def part_shapes(outs, _out_dimensions, _outs, ins, _in_dimensions, _ins, samples):
    """A part of a batch: [n, 64, 64, 1] for n addresses."""
    for sample in range(samples):
        shape = _integers(_integers(outs, samples)[sample], 4)
        shape[0] = _length(ins, sample)
        shape[1] = shape[2] = IMAGE_SIZE
        shape[3] = 1


@callback(_SHAPES)
def image_shapes(outs, _out_dimensions, _outs, _in, _in_dimensions, _ins, samples):
    """An image: [64, 64, 1]."""
    for sample in range(samples):
        shape = _integers(_integers(outs, samples)[sample], 3)
        shape[0] = shape[1] = IMAGE_SIZE
        shape[2] = 1


@callback(_RUN, numba_kernels, copy_kernels)
def copy(out, _out_shapes, _od, _outs, ins, in_shapes, _id, _ins):
    """Copy the images at these addresses."""
    count = _length(in_shapes, 0)
    addresses = _integers(_integers(ins, 1)[0], count)
    numba_kernels.copy_from(addresses, _images(out, 0, count))


@callback(_RUN, numba_kernels, copy_kernels)
def copy_augmented(out, _out_shapes, _od, _outs, ins, in_shapes, _id, _ins):
    """Copy the images at these addresses, augmented by these rows."""
    count = _length(in_shapes, 0)
    addresses = _integers(_integers(ins, 1)[0], count)
    numba_kernels.apply_from(addresses, _rows(ins, 1, count), _images(out, 0, count))


@callback(_RUN, numba_kernels, copy_kernels)
def augment_one(out, _out_shapes, _od, _outs, ins, _in_shapes, _id, _ins):
    """Augment one image by its row."""
    numba_kernels.apply(_images(ins, 0, 1), _rows(ins, 1, 1), _images(out, 0, 1))
