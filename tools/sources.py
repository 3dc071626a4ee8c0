"""Where raw images come from: a folder or an archive, both seen as a stream of named files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.errors import InputError
from tools.archive import MAX_MEMBER_BYTES, Member, read_archive
from tools.originals import file_sha256


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder or an archive."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir() and not self.path.is_file():
            raise InputError(
                f"{self.path}: no such folder or file; expected U+XXXX/<name>.png in a folder, .tar, .tar.gz or .tgz"
            )

    @property
    def name(self) -> str:
        """Its base name: what stays of it in the results, which must not depend on a machine's folders."""
        return self.path.resolve().name

    def sha256(self) -> str | None:
        """Of an archive's bytes; None for a folder."""
        return None if self.path.is_dir() else file_sha256(self.path)

    def members(self) -> Iterator[Member]:
        """Its files. Raises InputError where one is damaged or not a plain file."""
        return _read_folder(self.path) if self.path.is_dir() else read_archive(self.path)


def _read_folder(root: Path) -> Iterator[Member]:
    for folder, subfolders, names in os.walk(root, onerror=_refuse_unreadable):
        subfolders.sort()
        for subfolder in subfolders:
            if Path(folder, subfolder).is_symlink():
                raise InputError(f"{folder}/{subfolder}: a link to a folder, not followed; give its target as a source")
        for name in sorted(names):
            path = Path(folder, name)
            yield Member(name=path.relative_to(root).as_posix(), data=_read_file(path))


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder; expected images only: remove it")
    size = path.stat().st_size
    if size > MAX_MEMBER_BYTES:
        raise InputError(f"{path}: {size} bytes, expected {MAX_MEMBER_BYTES} at most: not an image of 64x64 pixels")
    return path.read_bytes()


def _refuse_unreadable(error: OSError) -> None:
    """os.walk would leave such a folder out without a word."""
    raise InputError(f"{error.filename}: {error.strerror}; make it readable or leave it out")
