"""Where the members of a tar lie, so that their data can be read in place: only headers are read, nothing is unpacked.

What makes a header acceptable is in `shards.format.tar_headers`. Names are held to more here: WebDataset readers take a
sample's key and extensions from them.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from shards.errors import CorruptShard
from shards.format.layout import TAR_BLOCK, round_up
from shards.format.tar_headers import MAX_MEMBER_BYTES, Limits, Member, TarHeaders, TarProblem
from shards.regular_files import open_regular

MAX_SIZE = 1 << 33  # what a header can state: for packed blocks of our own
MAX_MEMBERS = 100_000  # 50,000 images and their labels, read in 0.7 s and 30 MB
MAX_FOLDERS = 1 << 10
REMAKE = "fetch the tar again, or make it again from its files by `tar --format=ustar --hard-dereference`"
CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """The content of a tar."""

    members: list[Member]
    """Regular files, in the order of the tar."""
    end: int
    """Where the zeros that close the tar start, in bytes from its start."""
    bytes: int
    """Length of the whole file in bytes."""

    def samples(self) -> Iterator[list[Member]]:
        """Members that follow each other and share a key: what WebDataset readers take for one sample."""
        for _, members in groupby(self.members, key=lambda member: member.key):
            yield list(members)


def read_archive(path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES, where: str = "") -> Archive:
    """Read all headers. where: the tar's name in messages, if it is not its path.

    Raises: CorruptShard that names the byte and the member; OSError.
    """
    descriptor = open_regular(path)
    limits = Limits(member_bytes=max_member_bytes, members=MAX_MEMBERS, folders=MAX_FOLDERS)
    headers = TarHeaders(lambda position, size: os.pread(descriptor, size, position), limits)
    try:
        size = os.fstat(descriptor).st_size
        return Archive(members=list(_members(headers, size)), end=headers.position, bytes=size)
    except TarProblem as problem:
        place = f"{where or path}: byte {headers.position}, after {headers.count} members"
        raise CorruptShard(f"{place}: {problem}; {REMAKE}") from problem
    finally:
        os.close(descriptor)


def dali_index(archive: Archive) -> str:
    """The index that DALI's own reader wants beside a tar (wds2idx v1.2): `extension offset size name` by member."""
    lines = [" ".join(_index_entries(members)) for members in archive.samples()]
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def _members(headers: TarHeaders, size: int) -> Iterator[Member]:
    """The members of a tar of this many bytes."""
    if size % TAR_BLOCK:
        raise TarProblem(f"{size} bytes", f"a multiple of {TAR_BLOCK}")
    while (member := headers.next_member()) is not None:
        if member.offset + round_up(member.size, TAR_BLOCK) > size:
            found = f"{member.name!r} of {member.size} bytes"
            raise TarProblem(found, f"them before the file's end at {size}: cut short?")
        if not is_clutter(member.name):
            _check_name(member.name)
            yield member
        headers.skip(member)


def is_clutter(name: str) -> bool:
    """Whether a system put a file beside those of its user: no program takes it for data."""
    *folders, file = name.split("/")
    return "__MACOSX" in folders or file.startswith("._") or file in CLUTTER


def _check_name(name: str) -> None:
    """A key and an extension, without spaces, which separate the fields of an index for DALI.

    Parts that mean nothing are refused, as other readers keep them; `./` before is what `tar -C folder .` writes.
    """
    key, _, extension = name.rpartition("/")[2].partition(".")
    if not (key and extension and name.isprintable()) or " " in name:
        raise TarProblem(f"the name {name!r}", "one like 000001.png, without spaces")
    parts = name.removeprefix("./").split("/")
    if "" in parts or "." in parts:
        raise TarProblem(f"the name {name!r}", "a path without empty parts")


def _index_entries(members: Iterable[Member]) -> Iterator[str]:
    return (f"{member.extension} {member.offset} {member.size} {member.name}" for member in members)
