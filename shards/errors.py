"""Errors that the user can fix.

A message says where (file, member, byte offset), what was found, what was expected and what to do. The commands print
it without a traceback and exit with status 2.
"""

import errno
from unicodedata import category

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MOST_TEXT = 500  # characters of a message: its start, which says where, and its end, which says what to do
_ELLIPSIS = " ... "
_UNWRITABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogates, separators of lines and paragraphs


class InputError(Exception):
    """A path, an image, an option or a file's content is wrong."""


class ShardError(InputError):
    """A shard set cannot be read or written."""


class CorruptShard(ShardError):
    """A shard's bytes are not those that its manifest describes."""


class MissingShard(ShardError):
    """The manifest, or a file that it names, is missing."""


class ChangedShard(ShardError):
    """A shard is of another version than its manifest."""


class StorageError(ShardError):
    """A disk or an object store failed to read or to write."""


def printable(text: str) -> str:
    """A text from elsewhere on its way to a terminal: what moves the cursor, hides or breaks lines is escaped."""
    return "".join(ascii(character)[1:-1] if category(character) in _UNWRITABLE else character for character in text)


def shortened(text: str) -> str:
    """A message as it is shown: printable, and of at most MOST_TEXT characters, without its middle if it has more."""
    text = printable(text)
    if len(text) <= MOST_TEXT:
        return text
    part = (MOST_TEXT - len(_ELLIPSIS)) // 2
    return text[:part] + _ELLIPSIS + text[-part:]
