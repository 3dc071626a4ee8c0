"""Bytes as scripts, as a page opened from a disk may load scripts and nothing else; files/embedded.js takes them out.

A script that begins with the byte order mark of UTF-16 is read as UTF-16 whatever a server says of it. So a string
holds two bytes in two, where Base64 holds 1.5. Of random bytes' units 3.5 % are written as two.
"""

import numpy as np

MARK = b"\xff\xfe"  # of byte order
ESCAPE = 0xE000
SURROGATES, AFTER_ESCAPE = 0xD800, 0xE001  # half pairs are no characters; the escape itself follows them
SHIFT = 0xD700
LOW, LOW_SHIFT = 0x100, 0x1000  # quotes, backslash, ends of lines and zero are among the low ones


def script(name: str, data: bytes) -> bytes:
    """The script that puts these bytes into `embedded` under a name of letters."""
    head, tail = f'embedded.put("{name}",{len(data)},"', '");\n'
    return MARK + head.encode("utf-16-le") + _escaped(data) + tail.encode("utf-16-le")


def _escaped(data: bytes) -> bytes:
    units = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2")
    high = (units >= SURROGATES) & (units < AFTER_ESCAPE)
    low = units < LOW
    codes = np.where(high, units - SHIFT, np.where(low, units + LOW_SHIFT, units)).astype("<u2")
    width = 1 + (high | low)
    text = np.full(int(width.sum()), ESCAPE, "<u2")
    text[np.cumsum(width) - 1] = codes
    return text.tobytes()
