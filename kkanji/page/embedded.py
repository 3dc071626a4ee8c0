"""Bytes as scripts, as a page opened from a disk may load scripts and nothing else; files/embedded.js takes them out.

A script that begins with the byte order mark of UTF-16 is read as UTF-16 whatever a server says of it. So a string
holds two bytes in two, where Base64 holds 1.5. Units that a string cannot hold are avoided by a key for each block,
an odd number by which its units are multiplied: 0.6 % more, where writing them as two units takes 3.5 %.
"""

import numpy as np
from numpy.typing import NDArray

MARK = b"\xff\xfe"  # of byte order
BLOCK = 160  # units: of random ones, one key in 180 is good for so many
SURROGATES = slice(0xD800, 0xE000)  # half pairs are no characters
CONTROL = 0x20  # below it are zero and the ends of lines


def script(name: str, data: bytes) -> bytes:
    """The script that puts these bytes into `embedded` under a name of letters."""
    head, tail = f'embedded.put("{name}",{len(data)},"', '");\n'
    return MARK + head.encode("utf-16-le") + _text(data) + tail.encode("utf-16-le")


def _text(data: bytes) -> bytes:
    units = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2")
    blocks = np.pad(units, (0, -len(units) % BLOCK)).reshape(-1, BLOCK)
    factors = _factors(blocks)
    keys = np.array([pow(int(factor), -1, 1 << 16) for factor in factors], np.uint16)
    text = np.concatenate([keys[:, None], _changed(blocks, factors[:, None])], axis=1).reshape(-1)
    return text[: len(units) + len(blocks)].astype("<u2").tobytes()


def _changed(blocks: NDArray[np.uint16], factors: NDArray[np.uint16] | np.uint16) -> NDArray[np.uint16]:
    """Units times odd numbers, modulo 2^16; less one, as zero would stay zero, which a string cannot hold."""
    return blocks * factors - np.uint16(1)


def _factors(blocks: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """A factor for each block that leaves none of the units that a string cannot hold."""
    good = np.ones(1 << 16, np.bool_)
    good[SURROGATES] = good[:CONTROL] = False
    good[[ord('"'), ord("\\")]] = False
    factors, left = np.ones(len(blocks), np.uint16), np.arange(len(blocks))
    for factor in np.random.default_rng(0).permutation(np.arange(1, 1 << 16, 2)):
        if not len(left):
            return factors
        if good[pow(int(factor), -1, 1 << 16)]:
            fits = good[_changed(blocks[left], np.uint16(factor))].all(axis=1)
            factors[left[fits]] = factor
            left = left[~fits]
    raise ValueError("bytes without a key: of random blocks, one in 10^70 has none")
