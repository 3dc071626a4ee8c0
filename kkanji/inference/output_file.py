"""A file of results that grows in parts, appears when it is whole, and goes on where a killed run has left it.

    .NAME.partial        the results so far
    .NAME.partial.json   how many items they are of, how many bytes, and what they were made from; written after them

What stands behind those bytes was written by a run that died in the middle, and is cut off.
"""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from shards.errors import InputError
from shards.json_reading import count, load_json
from shards.output.files import partial_name, sync_folder, write_file
from shards.output.lock import in_use, open_locked


class ResultFile:
    """A file of results, one item after another: `with ResultFile(path, identity) as file:`, then write, then finish.

    Raises: InputError if the file exists or another process is writing it; OSError.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """identity: of everything that the results depend on; a part with another one is not continued."""
        self.path, self._identity = path, hashlib.sha256(identity.encode()).hexdigest()
        self._partial = partial_name(path)
        self._state = self._partial.with_name(self._partial.name + ".json")
        self._file = -1
        self.items = 0
        """Items whose results are in the file."""
        self.failed = 0
        """Of them, those with an error."""
        self.resumed = False
        """Whether an earlier run has begun it."""

    def __enter__(self) -> Self:
        refuse_existing(self.path)
        try:
            file = open_locked(self._partial)
        except BlockingIOError:
            raise in_use(self.path, self._partial) from None
        if file is None:  # another process has just finished it
            raise InputError(f"{self.path}: made by another process meanwhile; choose another --output")
        self._file = file
        size = self._resume()
        os.truncate(file, size)
        os.lseek(file, size, os.SEEK_SET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if error is not None and self.items:
            error.add_note(f"{self.items:,} results are kept: the same command goes on after them")

    def write(self, text: str, items: int, failed: int) -> None:
        """Append the results of some items, of which so many failed. They are on the disk when this returns."""
        data = text.encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
        self.items += items
        self.failed += failed
        size = os.lseek(self._file, 0, os.SEEK_CUR)
        state = {"identity": self._identity, "items": self.items, "failed": self.failed, "bytes": size}
        write_file(self._state, json.dumps(state) + "\n")

    def finish(self) -> None:
        """Give the file its name."""
        refuse_existing(self.path)
        self._partial.rename(self.path)
        self._state.unlink()
        sync_folder(self.path.parent)

    def _resume(self) -> int:
        """The bytes of an earlier run to go on after; 0 if there are none, or they are of something else."""
        try:
            state = load_json(self._state)
            size = count(state.get("bytes"), "bytes")
            items, failed = (count(state.get(name), name) for name in ("items", "failed"))
        except (OSError, ValueError):
            return 0
        if state.get("identity") != self._identity or size > os.fstat(self._file).st_size:
            return 0
        self.items, self.failed, self.resumed = items, failed, items > 0
        return size


def refuse_existing(path: Path) -> None:
    """Raise InputError if a file cannot be made there."""
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: already exists; remove it, or choose another --output")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}; make it, or choose another --output")
