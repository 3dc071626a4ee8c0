"""Files opened with care: a pipe would be waited for, a device read without end, so neither is opened by its name."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """The descriptor of a regular file. Raises OSError, for a pipe or a device as well."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(mode := os.fstat(descriptor).st_mode) or stat.S_ISDIR(mode):  # Python refuses folders itself
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "a pipe or a device, expected a regular file", str(path))


def reading(path: Path) -> BufferedReader:
    """A regular file, open for reading. Raises OSError."""
    return open(path, "rb", opener=open_regular)
