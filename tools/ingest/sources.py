"""Sources of raw images: folders and archives of image files here and in webdataset.py, arrays in the rooms beside.

Every source is a stream of checked images, each with its class and its place, so that the commands need not know how
they are stored.
"""

import fnmatch
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from kkanji.inference.image_files import FORMATS, OTHER_SUFFIXES, SUFFIXES
from kkanji.threads import map_in_order
from shards.checksums import file_digest
from shards.errors import InputError
from shards.format.tar_headers import MAX_MEMBER_BYTES
from tools.ingest.class_names import ClassNames
from tools.ingest.originals import LICENCE, Origin
from tools.ingest.prepare import MOST_BYTES, as_it_is, as_published, prepare
from tools.ingest.tar_stream import NamedFile, stream_archive

Official = Literal["", "train", "test"]
IGNORED = ("README*", "LICENSE*", "LICENCE*", ".DS_Store", "._*", "Thumbs.db")
BATCH = 16  # images that a thread prepares at a time: a call for each would cost as much as decoding one of CODH's
BATCHES_AHEAD = 4

UNKNOWN_LICENCE = "unknown"
CODH_MEMBER = re.compile(r"(?:^|/)kkanji2/U\+[0-9A-F]{4,5}/([0-9a-f]{16})\.png$")
SAMPLE = "rendered from brush fonts that their makers gave to the public domain (`kkanji sample`)"


class Publication(NamedTuple):
    """A name and a licence, as recognised in a source."""

    title: str
    licence: str


class Labelled(NamedTuple):
    """An image file, not yet read."""

    member: str
    """Its path in the source."""
    code_point: int
    """Unicode code point of its character."""
    data: bytes
    """Its content."""


class Skipped(NamedTuple):
    """A file of a source that gives no image."""

    member: str
    """Its path in the source."""
    why: str
    """What is wrong with it, beginning with its place."""
    unusable: bool
    """Whether it is an image that cannot be used; else it is none."""


class Found(NamedTuple):
    """An image in a source."""

    member: str
    """Place of the image in its source: a path, or an array's name and a row."""
    code_point: int
    """Unicode code point of its character."""
    pixels: bytes
    """64x64 pixels of uint8, row by row."""
    changes: tuple[str, ...] = ()
    """What was done to it, of tools.ingest.prepare.CHANGES."""
    prepared: bool = False
    """Whether it was prepared, or else taken as it is."""


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
                f"{self.path}: no such folder or file; expected CLASS/<name>.png in a folder, .tar, .tar.gz or .tgz, a "
                "WebDataset tar, or arrays of Kuzushiji-49 or -MNIST (*-imgs.npz, *-ubyte)"
            )

    @property
    def name(self) -> str:
        """Its base name. Results record only this, as they must not depend on a machine's folders."""
        return self.path.resolve().name

    @property
    def title(self) -> str:
        """The data's name, for people."""
        return self.name

    def publication(self, images: Iterable[tuple[str, str]]) -> Publication:  # noqa: ARG002  (subclasses look)
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

    def names_of_classes(self) -> Mapping[int, str]:
        """Names of the classes that are no single character, by code point."""
        return {}

    @abstractmethod
    def images(self) -> Iterator[Found | Skipped]:
        """The images of the source, and its other files. Raises InputError for one in an unexpected place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFiles(Source):
    """Image files, each with the name of its class, in a folder or in a tar archive.

    CODH's are taken as published, those of the legacy project as they are; any others are prepared as `kkanji predict`
    prepares them, unless they are to be taken as they are.
    """

    as_is: bool = False
    """Whether to refuse images that are not ready to train on, instead of preparing them."""
    names: ClassNames = field(default_factory=ClassNames)
    """What the names of its classes mean."""

    def names_of_classes(self) -> Mapping[int, str]:
        """See Source."""
        return self.names.texts

    @abstractmethod
    def labelled(self) -> Iterator[Labelled | Skipped]:
        """The files that are images, by their names, with their classes, and all others."""

    def images(self) -> Iterator[Found | Skipped]:
        """See Source. Several at a time are prepared, in threads."""
        files = iter(self.labelled())
        batches = iter(lambda: list(islice(files, BATCH)), [])
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for batch in map_in_order(pool, self._read_batch, batches, ahead=BATCHES_AHEAD):
                yield from batch

    def read_files(self) -> Iterator[NamedFile]:
        """All files, but those that people and systems put beside images."""
        most = MAX_MEMBER_BYTES if self.as_is else MOST_BYTES
        for file in _read_folder(self.path, most) if self.path.is_dir() else stream_archive(self.path, most):
            if not any(fnmatch.fnmatchcase(file.name.rpartition("/")[2], pattern) for pattern in IGNORED):
                yield file

    def is_published(self, member: str) -> bool:  # noqa: ARG002  (subclasses look)
        """Whether a file is an image that others have published for training, whose pixels stay as they are."""
        return False

    def where(self, member: str) -> str:
        """A file's place, for messages."""
        return f"{self.path}: {member}"

    def _read_batch(self, batch: Sequence[Labelled | Skipped]) -> list[Found | Skipped]:
        return [found for each in batch for found in ([each] if isinstance(each, Skipped) else self._read(each))]

    def _read(self, image: Labelled) -> Iterator[Found | Skipped]:
        read = as_published if self.is_published(image.member) else as_it_is if self.as_is else prepare
        try:
            for page, made in enumerate(read(image.data, self.where(image.member)), 1):
                member = f"{image.member}, page {page}" if page > 1 else image.member
                if isinstance(made, InputError):
                    yield Skipped(member, str(made), unusable=True)
                else:
                    yield Found(member, image.code_point, made.pixels, made.changes, prepared=read is prepare)
        except InputError as error:
            yield Skipped(image.member, str(error), unusable=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFolders(ImageFiles):
    """Images in folders by class, as they are or in a tar archive.

    CODH and the legacy project, whose lineage is unknown, name the folders by code points and characters.
    """

    def publication(self, images: Iterable[tuple[str, str]]) -> Publication:
        """Kuzushiji-Kanji if each file is named as CODH names its images, or `kkanji sample`, which names hashes."""
        names = [(self._codh_name(member), sha256) for member, sha256 in images]
        if self.origin is not Origin.KNOWN or not names or not all(name for name, _ in names):
            return Publication(self.title, UNKNOWN_LICENCE)
        if all(name and sha256.startswith(name[1]) for name, sha256 in names):
            return Publication(self.title, SAMPLE)
        return Publication("Kuzushiji-Kanji", LICENCE)

    def labelled(self) -> Iterator[Labelled | Skipped]:
        """See ImageFiles."""
        for file in self.read_files():
            skipped = other_file(file.name, self.where(file.name))
            yield skipped or Labelled(file.name, self._code_point(file.name), file.data)

    def is_published(self, member: str) -> bool:
        """See ImageFiles."""
        return self.origin is Origin.UNKNOWN or self._codh_name(member) is not None

    def _codh_name(self, member: str) -> re.Match[str] | None:
        place = f"{self.path.resolve().as_posix()}/" if self.path.is_dir() else ""
        return CODH_MEMBER.search(place + member)

    def _code_point(self, member: str) -> int:
        """The class that a file's folder names."""
        *folders, _ = member.split("/")
        if not folders and self.path.is_dir():  # the source is the folder of one class, such as a link's target
            folders = [self.path.resolve().name]
        if not folders:
            raise InputError(f"{self.where(member)}: in no folder; expected CLASS/<name>.png: move or remove it")
        return self.names.point(folders[-1], self.where(member))


def other_file(member: str, where: str) -> Skipped | None:
    """A file that is no image by its name, or of a format that is not read."""
    suffix = os.path.splitext(member)[1].lower()
    if suffix in SUFFIXES:
        return None
    if suffix in OTHER_SUFFIXES:
        return Skipped(member, f"{where}: a format that is not read; expected {', '.join(FORMATS)}: convert it", True)
    return Skipped(member, f"{where}: no image by its name", False)


def _read_folder(root: Path, most: int) -> Iterator[NamedFile]:
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
            yield NamedFile(name=path.relative_to(root).as_posix(), data=_read_file(path, most))


def _check_name(path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name that is not UTF-8; rename it") from error


def _read_file(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a folder; expected images only: remove it")
    size = path.stat().st_size
    if size > most:
        raise InputError(f"{path}: {size} bytes, expected {most} at most: not an image of one character; remove it")
    return path.read_bytes()


def _refuse_unreadable(error: OSError) -> None:
    """Without this, os.walk would skip an unreadable folder silently."""
    raise InputError(f"{error.filename}: {error.strerror}; make it readable or leave it out")
