"""A mapped file that is cut while it is read would end the process by SIGBUS, without a word. Here a message says so.

While `survived` is entered, reading where a file no longer reaches gives zeros, and `raise_if_cut` then names the file.
So whoever enters it calls that before the read bytes count: the loader of trainings and evaluations does.

The kernel calls the handler in the thread that reads. That may be one of DALI's, which knows no Python, so the handler
is compiled. It notes the address, maps a page of zeros there, and returns to the instruction that failed.
"""

import ctypes
import mmap
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from shards.compiled import callback
from shards.errors import ChangedShard

SYMBOL = "kkanji_first_cut"  # of the variable that the handler notes the first address in
_first_cut = ctypes.c_int64(0)
llvmlite.binding.add_symbol(SYMBOL, ctypes.addressof(_first_cut))

# <signal.h> and <asm-generic/siginfo.h> of Linux on machines of 64 bits.
SA_SIGINFO, BUS_ADRERR, SI_CODE, SI_ADDR = 4, 2, 8, 16
_INT, _LONG = ir.IntType(32), ir.IntType(64)
_MMAP = ir.FunctionType(cgutils.voidptr_t, [cgutils.voidptr_t, _LONG, _INT, _INT, _INT, _LONG])
_SIGNAL = ir.FunctionType(cgutils.voidptr_t, [_INT, cgutils.voidptr_t])
_FIXED_ZEROS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
MAPPING = re.compile(r"([0-9a-f]+)-\S+ \S+ ([0-9a-f]+) \S+ \d+ +(/.*)")  # proc(5): start, offset in the file, path


class _Action(ctypes.Structure):
    """struct sigaction of glibc."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@intrinsic
def _read_zeros(_context, information):  # Numba infers types
    """Handle SIGBUS: information is the address of its siginfo_t. Any other fault than a cut file ends the process."""

    def generate(context, builder, _signature, arguments):
        start = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        code = builder.load(builder.bitcast(_offset(builder, start, SI_CODE), _INT.as_pointer()))
        address = builder.load(builder.bitcast(_offset(builder, start, SI_ADDR), _LONG.as_pointer()))
        page = builder.and_(address, _LONG(-mmap.PAGESIZE))
        zeros = cgutils.get_or_insert_function(builder.module, _MMAP, "mmap")
        place = builder.inttoptr(page, cgutils.voidptr_t)
        options = (_LONG(mmap.PAGESIZE), _INT(mmap.PROT_READ), _INT(_FIXED_ZEROS), _INT(-1), _LONG(0))
        with builder.if_else(builder.icmp_signed("==", code, _INT(BUS_ADRERR))) as (cut, other):
            with cut:
                builder.call(zeros, [place, *options])
                first = _variable(builder)
                with builder.if_then(builder.icmp_signed("==", builder.load(first), _LONG(0))):
                    builder.store(address, first)
            with other:
                default = cgutils.get_or_insert_function(builder.module, _SIGNAL, "signal")
                builder.call(default, [_INT(signal.SIGBUS), ir.Constant(cgutils.voidptr_t, None)])
        return context.get_dummy_value()

    return types.void(information), generate


def _offset(builder, pointer, count):
    return builder.gep(pointer, [_INT(count)])


def _variable(builder):
    found = builder.module.globals.get(SYMBOL)
    return found or ir.GlobalVariable(builder.module, _LONG, SYMBOL)


@callback(types.void(types.int32, types.intp, types.intp))
def _handler(_number, information, _context):
    _read_zeros(information)


@contextmanager
def survived() -> Iterator[None]:
    """While entered, a mapped file may be cut."""
    libc, before = ctypes.CDLL(None, use_errno=True), _Action()
    action = _Action(handler=_handler.address, flags=SA_SIGINFO)
    libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before))
    _first_cut.value = 0
    try:
        yield
    finally:
        libc.sigaction(signal.SIGBUS, ctypes.byref(before), None)


def raise_if_cut() -> None:
    """Raise ChangedShard if anything that was read since `survived` was entered lay beyond the end of a file."""
    if _first_cut.value:
        found = f"{_mapped_at(_first_cut.value)}: cut while it was read; what came after the cut is lost"
        raise ChangedShard(f"{found}; copy it again or pack the set anew, and do not write to a set that is in use")


def _mapped_at(address: int) -> str:
    """The file that was mapped where zeros now are: what is left of it lies before them, or behind."""
    before = ""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        match = MAPPING.fullmatch(line)
        if match:
            start, offset = int(match[1], 16), int(match[2], 16)
            if start > address:
                return match[3] if start - offset <= address else before
            before = match[3]
    return before
