"""Sources of raw images: folders and archives of characters here, arrays in codh_npz.py and legacy_arrays.py.

Every source is a stream of checked images, each with its class and its place, so that the commands need not know how
they are stored.
"""

import fnmatch
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from kkanji.classes import parse_label
from shards.checksums import file_digest
from shards.errors import InputError
from shards.format.tar_headers import MAX_MEMBER_BYTES
from tools.ingest import png
from tools.ingest.originals import LICENCE, Origin
from tools.ingest.tar_stream import NamedFile, stream_archive

Official = Literal["", "train", "test"]
IGNORED = ("README*", "LICENSE*", "LICENCE*", ".DS_Store", "._*")


UNKNOWN_LICENCE = "unknown"
IDX = re.compile(r"-idx[13]-ubyte(\.gz)?$")
CODH_MEMBER = re.compile(r"(?:^|/)kkanji2/U\+[0-9A-F]{4,5}/([0-9a-f]{16})\.png$")
SAMPLE = "rendered from brush fonts that their makers gave to the public domain (`kkanji sample`)"


class Publication(NamedTuple):
    """A name and a licence, as recognised in a source."""

    title: str
    licence: str


class Found(NamedTuple):
    """An image in a source."""

    member: str
    """Place of the image in its source: a path, or an array's name and a row."""
    code_point: int
    """Unicode code point of its character."""
    pixels: bytes
    """64x64 pixels of uint8, row by row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source(ABC):
    """A folder, an archive or a pair of arrays."""

    path: Path
    """The folder or file."""
    origin: Origin = Origin.KNOWN
    """Origin of all its images; known by default."""
    official: Official = ""
    """The split that the publisher put these images into; empty, the default, if the publisher made no split."""

    def __post_init__(self) -> None:
        if not self.path.is_dir() and not self.path.is_file():
            raise InputError(
                f"{self.path}: no such folder or file; expected U+XXXX/<name>.png in a folder, .tar, .tar.gz or .tgz, "
                "or arrays of Kuzushiji-49 or -MNIST (*-imgs.npz)"
            )

    @property
    def name(self) -> str:
        """Its base name. Results record only this, as they must not depend on a machine's folders."""
        return self.path.resolve().name

    @property
    def title(self) -> str:
        """The data's name, for people."""
        return self.name

    def publication(self, images: Iterable[tuple[str, str]]) -> "Publication":  # noqa: ARG002  (subclasses look)
        """What these images are, by their members and the sha256 of their pixels in hexadecimal."""
        return Publication(self.title, UNKNOWN_LICENCE)

    def identities(self) -> list[tuple[str, str]]:
        """The base name and the sha256 of each of its files; of a folder its name and an empty string."""
        if self.path.is_dir():
            return [(self.name, "")]
        return [(self.name, file_digest(self.path))]

    def classes(self) -> tuple[int, ...]:
        """Code points of the classes that the source lists itself; classes of its images may come on top."""
        return ()

    @abstractmethod
    def images(self) -> Iterator[Found]:
        """The images of the source. Raises InputError if one is damaged or in an unexpected place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFolders(Source):
    """PNG files in folders by class, as they are or in a tar archive.

    CODH names the folders U+4E00; the legacy project, whose lineage is unknown, also 一 or 一 (U+4E00).
    """

    def publication(self, images: Iterable[tuple[str, str]]) -> Publication:
        """Kuzushiji-Kanji if each file is named as CODH names its images, or `kkanji sample`, which names hashes."""
        place = f"{self.path.resolve().as_posix()}/" if self.path.is_dir() else ""
        names = [(CODH_MEMBER.search(place + member), sha256) for member, sha256 in images]
        if self.origin is not Origin.KNOWN or not names or not all(name for name, _ in names):
            return Publication(self.title, UNKNOWN_LICENCE)
        if all(name and sha256.startswith(name[1]) for name, sha256 in names):
            return Publication(self.title, SAMPLE)
        return Publication("Kuzushiji-Kanji", LICENCE)

    def images(self) -> Iterator[Found]:
        """See Source."""
        for member in _read_folder(self.path) if self.path.is_dir() else stream_archive(self.path):
            code_point = self._code_point(member)
            if code_point is not None:
                pixels = png.decode(member.data, f"{self.path}: {member.name}")
                yield Found(member.name, code_point, pixels.tobytes())

    def _code_point(self, member: NamedFile) -> int | None:
        """The class that a file's folder names; None for files that people and systems put beside the images."""
        *folders, file_name = member.name.split("/")
        if any(fnmatch.fnmatchcase(file_name, pattern) for pattern in IGNORED):
            return None
        if not folders and self.path.is_dir():  # the source is the folder of one class, such as a link's target
            folders = [self.path.resolve().name]
        where = f"{self.path}: {member.name}"
        if IDX.search(file_name):
            raise InputError(
                f"{where}: MNIST's idx format, which is not read; `kkanji fetch kmnist` gets the same as .npz"
            )
        if folders and file_name.endswith(".png"):
            if folders[-1].startswith("U+"):
                return parse_label(folders[-1], where)
            if self.origin is Origin.UNKNOWN:
                return _named_class(folders[-1], where)
        raise InputError(f"{where}: does not fit CODH's layout; expected U+XXXX/<name>.png: remove or rename it")


def _named_class(folder: str, where: str) -> int:
    """The code point of a folder named 一 or 一 (U+4E00). Only single code points are labels."""
    character, _, rest = folder.partition(" (")
    if len(character) == 1 and rest in ("", f"U+{ord(character):04X})"):
        return ord(character)
    raise InputError(
        f"{where}: found folder {folder!r} ({len(character)} code points), expected one character, or U+ and four or "
        "five hexadecimal capitals, as in 一 or U+4E00: rename it"
    )


def _read_folder(root: Path) -> Iterator[NamedFile]:
    for folder, subfolders, names in os.walk(root, onerror=_refuse_unreadable):
        subfolders.sort()
        for subfolder in subfolders:
            if Path(folder, subfolder).is_symlink():
                raise InputError(
                    f"{folder}/{subfolder}: a link to a folder, not followed; remove it and give its target as a source"
                )
        for name in sorted(names):
            path = Path(folder, name)
            _check_name(path)
            yield NamedFile(name=path.relative_to(root).as_posix(), data=_read_file(path))


def _check_name(path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name that is not UTF-8; rename it") from error


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder; expected images only: remove it")
    size = path.stat().st_size
    if size > MAX_MEMBER_BYTES:
        raise InputError(f"{path}: {size} bytes, expected {MAX_MEMBER_BYTES} at most: not an image of 64x64 pixels")
    return path.read_bytes()


def _refuse_unreadable(error: OSError) -> None:
    """Without this, os.walk would skip an unreadable folder silently."""
    raise InputError(f"{error.filename}: {error.strerror}; make it readable or leave it out")
