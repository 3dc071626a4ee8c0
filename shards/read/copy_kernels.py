"""Rows of pixels copied from where they lie, the next rows' pages looked up meanwhile.

Shuffled images lie on pages that the processor has no translation for: each costs a walk through the page tables, a
tenth to a fifth of the time of NumPy's gather from mapped files. Asking for a row some steps ahead hides the walk
behind the copies (figures in docs/LOG.md). NumPy has no way to say so, hence compiled code. It holds no GIL.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from shards.compiled import compiled
from shards.format.layout import IMAGE_BYTES

AHEAD = 16  # rows; 4 to 32 measured alike

_READ, _KEEP, _DATA = (ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))  # llvm.prefetch's arguments


@intrinsic
def _prefetch(_context, address):  # Numba infers types
    """Ask for the cache line at an address; one that is not mapped does no harm."""

    def generate(context, builder, _signature, arguments):
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        function = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], _PREFETCH)
        builder.call(function, [pointer, _READ, _KEEP, _DATA])
        return context.get_dummy_value()

    return types.void(address), generate


@intrinsic
def _copy(_context, target, source, count):
    """memcpy between addresses."""

    def generate(context, builder, _signature, arguments):
        to, start = (builder.inttoptr(address, cgutils.voidptr_t) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, start, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(target, source, count), generate


_PREFETCH = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[ir.IntType(32)] * 3])


@compiled(nogil=True)
def copy_row(addresses, number, target, size):
    """Copy `size` bytes from addresses[number], int64, to the address target."""
    if number + AHEAD < len(addresses):
        _prefetch(addresses[number + AHEAD])
    _copy(target, addresses[number], size)


@compiled(nogil=True)
def locate_rows(numbers, block, to_row, to_label, start, labels, addresses, found):
    """Fill addresses and labels found, [n], of the samples of these numbers in these blocks.

    NumPy goes over all numbers six times for it.
    """
    for number in range(len(numbers)):
        addresses[number] = (numbers[number] + to_row[block[number]]) * IMAGE_BYTES + start
        found[number] = labels[numbers[number] + to_label[block[number]]]


@compiled(nogil=True)
def copy_rows(addresses, target, size):
    """Copy `size` bytes from each of these addresses, int64 [n], one after another to the address target."""
    for number in range(len(addresses)):
        copy_row(addresses, number, target + number * size, size)
