"""Errors that the user can fix.

A message says where (file, member, byte offset), what was found, what was expected and what to do. The commands print
it without a traceback and exit with status 2.
"""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
