"""Tar archives read as a stream: nothing is unpacked to disk, and a damaged archive is never a shorter one.

What makes an archive acceptable is in `shards.format.tar_headers`.
"""

import gzip
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.errors import InputError
from shards.format.tar_headers import MAX_MEMBER_BYTES, CutShort, Limits, NotATar, TarHeaders, TarProblem, plain_name

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedFile:
    """A regular file of an archive or a folder."""

    name: str
    """Its path inside, with slashes."""
    data: bytes
    """Its content."""


def stream_archive(path: Path, most: int = MAX_MEMBER_BYTES) -> Iterator[NamedFile]:
    """The regular files of a .tar, .tar.gz or .tgz in their order. most: bytes of a file.

    Raises: InputError if the archive is damaged or cut short, or has anything but plain files under plain relative
    names.
    """
    with path.open("rb") as file:
        packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if not packed:
            yield from _files(path, file, most)
            return
        with gzip.open(file) as stream:
            yield from _files(path, stream, most)


def check_structure(path: Path) -> None:
    """Walk the headers of a tar, without its content. Raises InputError if it is empty or cut short.

    Warns of a file that is no tar at all: a mirror may serve another archive, which `kkanji combine` then refuses.
    """
    size = path.stat().st_size
    if not size:
        raise InputError(f"{path}: 0 bytes, expected an archive; fetch it again, or name a mirror by --url")
    with path.open("rb") as file:
        headers = TarHeaders(lambda position, length: os.pread(file.fileno(), length, position), Limits())
        try:
            while (member := headers.next_member()) is not None:
                headers.skip(member)
        except NotATar as problem:
            warnings.warn(f"{path}: {_message(problem, 0, '')}", UserWarning, stacklevel=2)
        except TarProblem as problem:
            raise InputError(f"{path}: {_message(problem, headers.position, '')}") from problem


def _files(path: Path, stream: BinaryIO | gzip.GzipFile, most: int) -> Iterator[NamedFile]:
    headers, last = TarHeaders(lambda _, size: _read(stream, size), Limits(member_bytes=most)), ""
    while True:
        try:
            member = headers.next_member()
            if member is None:
                return
            file = NamedFile(name=plain_name(member.name), data=headers.data(member))
        except (TarProblem, EOFError, gzip.BadGzipFile, zlib.error) as problem:
            raise InputError(f"{path}: {_message(problem, headers.position, last)}") from problem
        last = member.name
        yield file


def _read(stream: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """The next bytes; fewer only at the end. One read of a compressed stream may return less than there is."""
    parts, missing = [], size
    while missing and (data := stream.read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def _message(problem: Exception, position: int, last: str) -> str:
    """Where an archive was refused, what was found there, what was expected, and what to do."""
    after = f"after {last!r}" if last else "before its first file"
    if isinstance(problem, NotATar):
        expected = "expected a .tar, .tar.gz or .tgz archive, or a folder"
        return f"starts with {problem.first.hex(' ')}, not with a tar header; {expected}"
    if isinstance(problem, (CutShort, EOFError)):
        end, needed = (problem.end, problem.needed) if isinstance(problem, CutShort) else (position, "more gzip data")
        found = f"ends at byte {end} of the unpacked archive, {after}"
        return f"{found}; expected {needed}: it was cut short, fetch or copy it again"
    where = f"at byte {position} of the unpacked archive, {after}"
    found = str(problem) if isinstance(problem, TarProblem) else f"found damaged gzip data ({problem})"
    return f"{where}: {found}; fetch or make the archive again"
