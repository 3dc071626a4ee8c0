"""Permutations of 0..n-1 by a key, at any positions, without storing them: a Feistel network with cycle walking.

The network permutes the next power of two; what falls outside goes through again (Black and Rogaway, CT-RSA 2002,
section 3), twice as often as not even in the worst case.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Luby and Rackoff (SIAM J. Comput. 17, 1988) need 4 for a pseudo-random permutation; small domains like more.
ROUNDS = 8
_MASK = (1 << 64) - 1
_U64 = np.uint64
Words = NDArray[np.uint64]


def permute(positions: Words, size: int, key: int) -> Words:
    """What the permutation of 0..size-1 chosen by `key` has at these positions."""
    low, high = _halves(size)
    keys = [_U64(mix(key + number)) for number in range(ROUNDS)]
    return _walk(positions, _U64(size), _U64(low), _U64(high), keys)


class Permutations:
    """Several permutations, each of its own size and key, looked up together."""

    def __init__(self, sizes: Sequence[int], keys: Sequence[int]) -> None:
        self._sizes = np.array(sizes, np.uint64)
        halves = [_halves(size) for size in sizes]
        self._low, self._high = (np.array(bits, np.uint64) for bits in zip(*halves, strict=True))
        rounds = [[mix(key + number) for key in keys] for number in range(ROUNDS)]
        self._keys = np.array(rounds, np.uint64)  # [round, permutation]

    def at(self, which: NDArray[np.int64], positions: Words) -> Words:
        """What permutation number `which[i]` has at `positions[i]`."""
        keys = list(self._keys[:, which])
        return _walk(positions, self._sizes[which], self._low[which], self._high[which], keys)


def mix(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014): 64 well mixed bits of an integer."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _halves(size: int) -> tuple[int, int]:
    """Bits of the low and of the high half of the network's words."""
    bits = (size - 1).bit_length()
    low = max(1, bits // 2)
    return low, max(1, bits - low)


def _walk(
    positions: Words, size: Words | _U64, low: Words | _U64, high: Words | _U64, keys: Sequence[Words | _U64]
) -> Words:
    """Sizes, bits and keys are the same for all positions, or one for each."""
    result = _feistel(positions, low, high, keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _feistel(
            result[outside], _at(low, outside), _at(high, outside), [_at(key, outside) for key in keys]
        )
        outside = outside[result[outside] >= _at(size, outside)]
    return result


def _at(values: Words | _U64, positions: NDArray[np.intp]) -> Words | _U64:
    return values[positions] if isinstance(values, np.ndarray) else values


def _feistel(x: Words, low_bits: Words | _U64, high_bits: Words | _U64, keys: Sequence[Words | _U64]) -> Words:
    """Alternately mix the low part into the high one and the high part into the low one; each round is invertible."""
    one = _U64(1)
    low_mask, high_mask = (one << low_bits) - one, (one << high_bits) - one
    low, high = x & low_mask, x >> low_bits
    for number, key in enumerate(keys):
        if number % 2 == 0:
            high = high ^ (_hash(low, key) & high_mask)
        else:
            low = low ^ (_hash(high, key) & low_mask)
    return (high << low_bits) | low


def _hash(x: Words, key: Words | _U64) -> Words:
    """The round function: a multiplicative hash whose high bits, the good ones, are brought down."""
    x = (x + key) * _U64(0xBF58476D1CE4E5B9)
    x ^= x >> _U64(29)
    x *= _U64(0x94D049BB133111EB)
    return x >> _U64(32)
