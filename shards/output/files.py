"""Files that have their old or their new content, never a part of it: temporary name, fsync, rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_file(path: Path, content: str | bytes) -> None:
    """Write a small file; after a crash it has its old or its new content. Raises OSError, which names the file."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def partial_name(path: Path) -> Path:
    """Where a file lies until it is complete. A process that is killed leaves it; the next one writes over it."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes its name only when it is complete and on the disk.

    An error within the context leaves the file that was there before. Raises OSError, which names the file.
    """
    temporary = partial_name(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def sync_file(descriptor: int) -> None:
    """Wait until the disk holds what was written. Raises OSError."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the disk holds the names in the folder: a rename may otherwise be lost. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
