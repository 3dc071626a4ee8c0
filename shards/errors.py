"""Errors a user can do something about.

A message says where (file, member, byte offset), what was found, what was expected and what to do. The command lines
print it without a traceback and leave with status 2.
"""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(Exception):
    """Something given to kkanji is wrong: a path, an image, an option, a file's content."""


class ShardError(InputError):
    """A shard set cannot be read or written."""


class CorruptShard(ShardError):
    """A shard's bytes are not what its manifest promises."""


class MissingShard(ShardError):
    """A file that the manifest names, or the manifest itself, is not there."""


class ChangedShard(ShardError):
    """A shard is of another version than its manifest."""


class StorageError(ShardError):
    """A disk or an object store refused to read or to write."""
