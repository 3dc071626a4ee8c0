"""Permutations of 0..n-1 by a key, at any positions, without storing them: a Feistel network with cycle walking.

The network permutes the next power of two; what falls outside goes through again (Black and Rogaway, CT-RSA 2002,
section 3), twice as often as not even in the worst case.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shards.compiled import compiled

# Luby and Rackoff (SIAM J. Comput. 17, 1988) need 4 for a pseudo-random permutation; small domains like more.
ROUNDS = 8
_MASK = (1 << 64) - 1
_ONE, _FIRST_SHIFT, _LAST_SHIFT = np.uint64(1), np.uint64(29), np.uint64(32)
_FIRST_FACTOR, _LAST_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
Words = NDArray[np.uint64]


def permute(positions: Words, size: int, key: int) -> Words:
    """What the permutation of 0..size-1 chosen by `key` has at these positions."""
    result = np.empty(len(positions), np.uint64)
    _permute(positions, np.uint64(size), np.array(_halves(size), np.uint64), _keys(key), result)
    return result


class Permutations:
    """Several permutations, each of its own size and key, looked up together."""

    def __init__(self, sizes: Sequence[int], keys: Sequence[int]) -> None:
        self._sizes = np.array(sizes, np.uint64)
        self._halves = np.array([_halves(size) for size in sizes], np.uint64)  # [permutation, low and high]
        self._keys = np.array([_keys(key) for key in keys])  # [permutation, round]

    def at(self, which: NDArray[np.int64], positions: Words) -> Words:
        """What permutation number `which[i]` has at `positions[i]`."""
        result = np.empty(len(positions), np.uint64)
        _look_up(positions, which, self._sizes, self._halves, self._keys, result)
        return result


def mix(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): 64 well mixed bits of an integer."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _keys(key: int) -> Words:
    """The keys of the rounds."""
    return np.array([mix(key + number) for number in range(ROUNDS)], np.uint64)


def _halves(size: int) -> tuple[int, int]:
    """Bits of the low and of the high half of the network's words."""
    bits = (size - 1).bit_length()
    low = max(1, bits // 2)
    return low, max(1, bits - low)


@compiled(nogil=True)
def _permute(positions, size, halves, keys, result):  # type: ignore[no-untyped-def]
    """In two loops, as the first then becomes vector instructions: 17 ns a number instead of 26 (docs/LOG.md)."""
    for number in range(len(positions)):
        result[number] = _feistel(positions[number], halves, keys)
    for number in range(len(positions)):
        while result[number] >= size:
            result[number] = _feistel(result[number], halves, keys)


@compiled(nogil=True)
def _look_up(positions, which, sizes, halves, keys, result):  # type: ignore[no-untyped-def]
    """Compiled, as a feed asks for millions a second: 8 rounds by NumPy took five times as long."""
    for number in range(len(positions)):
        own = which[number]
        value = _feistel(positions[number], halves[own], keys[own])
        while value >= sizes[own]:
            value = _feistel(value, halves[own], keys[own])
        result[number] = value


@compiled(nogil=True)
def _feistel(value, halves, keys):  # type: ignore[no-untyped-def]
    """Alternately mix the low part into the high one and the high part into the low one; each round is invertible."""
    low_mask, high_mask = (_ONE << halves[0]) - _ONE, (_ONE << halves[1]) - _ONE
    low, high = value & low_mask, value >> halves[0]
    for number in range(0, ROUNDS, 2):
        high ^= _hash(low, keys[number]) & high_mask
        low ^= _hash(high, keys[number + 1]) & low_mask
    return (high << halves[0]) | low


@compiled(nogil=True)
def _hash(value, key):  # type: ignore[no-untyped-def]
    """The round function: a multiplicative hash whose high bits, the good ones, are brought down."""
    value = (value + key) * _FIRST_FACTOR
    value ^= value >> _FIRST_SHIFT
    return (value * _LAST_FACTOR) >> _LAST_SHIFT
