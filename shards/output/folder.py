"""A folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from shards.errors import DISK_FULL, StorageError
from shards.output.lock import in_use, is_named, try_lock
from shards.output.ownership import destination


class OutputFolder:
    """A folder written under a temporary name and renamed when complete.

    `with OutputFolder(path) as folder:` gives the temporary folder, `.NAME.partial` beside the final one. Leaving the
    block normally syncs and renames it; an exception removes it; a SIGKILL leaves it, and the next run clears it. Two
    processes cannot write one output: the temporary folder is locked, and the lock ends with its process.

    Raises: InputError if the output must not be replaced or is being written, StorageError if the disk fails.
    """

    def __init__(
        self, final: Path, *, maker: str = "", inputs: Iterable[str | Path] = (), overwrite: bool = False
    ) -> None:
        """maker: name of the command; `overwrite` replaces only its own earlier output.

        inputs: paths never replaced.
        """
        self._destination = destination(final, maker, inputs, overwrite)
        self.final = self._destination.path
        self.partial = self.final.parent / f".{self.final.name}.partial"
        self._lock = -1

    def __enter__(self) -> Path:
        try:
            self._destination.check()
            self.partial.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._clear()
            self._destination.announce()
        except OSError as error:
            raise StorageError(f"{self.final}: cannot be written: {error}") from error
        return self.partial

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._destination.publish(self.partial)
            elif isinstance(error, OSError) and error.errno in DISK_FULL:
                raise StorageError(self._disk_full(error)) from error
            elif error is not None and not isinstance(error, Exception):  # Ctrl-C, SIGTERM
                error.add_note(f"{self.final}: not made: {self._written()} and removed again")
        except OSError as failure:
            raise StorageError(f"{self.final}: cannot be written: {failure}") from failure
        finally:
            self._discard()

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(self.partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            mine = try_lock(self._lock) and self._is_mine()
        except FileNotFoundError:  # renamed since this process made sure that it is there
            mine = False
        if not mine:
            self._close()
            raise in_use(self.final, self.partial)

    def _is_mine(self) -> bool:
        """Whether the temporary name still leads to the locked folder: after the rename another process may take it."""
        return is_named(self._lock, self.partial)

    def _clear(self) -> None:
        """Remove what a killed run has left. Checks again first: another run may have made the output meanwhile."""
        try:
            self._destination.check()
            for entry in self.partial.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._is_mine():
            shutil.rmtree(self.partial, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _disk_full(self, error: OSError) -> str:
        free = shutil.disk_usage(self.partial).free
        found = f"{self._written()}, {free / 1e6:.1f} MB free"
        return f"{self.final}: {error.strerror}: {found}; free some space or choose another --output"

    def _written(self) -> str:
        files = [path.lstat() for path in self.partial.rglob("*")]
        return f"{sum(file.st_size for file in files) / 1e6:.1f} MB written in {len(files)} files"
