"""Where the members of a tar lie, read strictly: an archive that could mean two things to two programs is refused.

Accepted is what `tar`, Python's tarfile and webdataset's TarWriter write for regular files: USTAR, GNU and v7 headers,
folders, and pax headers or GNU long names that only name a file or tell its times and owner. Refused are links,
devices, sparse files, names that lead outside or stand twice, sizes that are negative, huge or stated elsewhere than in
the header, damaged headers, and archives that do not end with zeros. Only headers are read, and nothing is unpacked.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, NoReturn

from shards.errors import CorruptShard
from shards.format.layout import TAR_BLOCK, round_up

MAX_MEMBER_BYTES = 1 << 20  # an image of 64x64 pixels takes about 1.5 kB
MAX_SIZE = 1 << 33  # what a header can state: for packed blocks of our own
MAX_MEMBERS = 100_000  # 50,000 images and their labels, read in 0.7 s and 30 MB
MAX_FOLDERS = 1 << 10
MAX_EXTENSION_BYTES = 16 << 10
MAX_NAME_BYTES = 4 << 10
MAX_EXTENSIONS = 4  # headers that describe the next member
MAX_END_BYTES = 4 << 20  # zeros after the last member: tar fills a record, 10 KiB unless -b says otherwise

_REGULAR, _FOLDER, _LONG_NAME, _PAX, _PAX_GLOBAL = (b"0", b"\0"), b"5", b"L", b"x", b"g"
_KINDS = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "pipe", b"S": "sparse file"}
_MAGICS = (b"ustar\x0000", b"ustar  \0", bytes(8))  # POSIX, GNU, v7
_HARMLESS = {b"path", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}
_END = bytes(2 * TAR_BLOCK)


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    """As in the tar."""
    start: int
    """Of its first header, in bytes from the start of the tar."""
    offset: int
    """Of its data."""
    size: int

    @property
    def key(self) -> str:
        """What the members of one sample share: the path up to the first dot of the file's name."""
        return self.name[: self.name.find(".", self.name.rfind("/") + 1)]

    @property
    def extension(self) -> str:
        """The rest of the name."""
        return self.name[len(self.key) + 1 :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A tar's members in their order."""

    members: list[Member]
    end: int
    """Where the zeros start that close it."""
    bytes: int
    """Length of the whole file."""

    def samples(self) -> Iterator[list[Member]]:
        """Members that follow each other and share a key: what WebDataset readers take for one sample."""
        for _, members in groupby(self.members, key=lambda member: member.key):
            yield list(members)


def read_archive(path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES, where: str = "") -> Archive:
    """Read all headers. where: the tar's name in messages, if it is not its path.

    Raises: CorruptShard that names the byte and the member; OSError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _Reader(where or str(path), descriptor, max_member_bytes).read()
    finally:
        os.close(descriptor)


def dali_index(archive: Archive) -> str:
    """The index that DALI's own reader wants beside a tar (wds2idx v1.2): `extension offset size name` by member."""
    lines = [" ".join(_index_entries(members)) for members in archive.samples()]
    return "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"


def _index_entries(members: Iterable[Member]) -> Iterator[str]:
    return (f"{member.extension} {member.offset} {member.size} {member.name}" for member in members)


class _Header(NamedTuple):
    kind: bytes
    name: bytes
    size: int


class _Reader:
    """Where the reading of one archive has got to, which every message says."""

    def __init__(self, where: str, descriptor: int, max_member_bytes: int) -> None:
        self._where, self._descriptor, self._max_member_bytes = where, descriptor, max_member_bytes
        self._bytes = os.fstat(descriptor).st_size
        self._position = 0
        self._names: set[str] = set()
        self._folders = 0

    def read(self) -> Archive:
        if self._bytes % TAR_BLOCK:
            self._fail(f"{self._bytes} bytes", f"a multiple of {TAR_BLOCK}")
        members: list[Member] = []
        while True:
            start = self._position
            header, name = self._next_header()
            if header is None:
                return Archive(members=members, end=start, bytes=self._bytes)
            if self._is_file(header, name):
                members.append(Member(name, start, self._position, header.size))
                self._position += round_up(header.size, TAR_BLOCK)

    def _next_header(self) -> tuple[_Header | None, str]:
        """The next member's header, and its name: its own or that of extension headers before it. None at the end."""
        long_name = b""
        for _ in range(MAX_EXTENSIONS + 1):
            block = self._read(TAR_BLOCK, "a member, or the zeros that end a tar")
            if block == bytes(TAR_BLOCK):
                if long_name:
                    self._fail("a long name without its member", "the member")
                self._check_end()
                return None, ""
            header = self._parse(block)
            self._position += TAR_BLOCK
            if header.kind not in (_LONG_NAME, _PAX, _PAX_GLOBAL):
                return header, self._name(long_name or header.name, header)
            long_name = self._extension(header) or long_name
        return self._fail(f"more than {MAX_EXTENSIONS} headers that describe one member", "one or two")

    def _parse(self, block: bytes) -> _Header:
        if block[257:265] not in _MAGICS or _octal(block[148:156]) != _checksum(block):
            self._fail(f"a damaged header, {block[:8].hex(' ')} ...", "one of a tar with a right checksum")
        size, name = _octal(block[124:136]), block[:100].rstrip(b"\0")
        if size is None:
            self._fail(f"member {name!r} of size {block[124:136]!r}, negative, huge or no number", "octal digits")
        prefix = block[345:500].rstrip(b"\0")
        if prefix and block[257:263] != b"ustar\0":
            self._fail(f"member {name!r} with fields of GNU tar for sparse or multi-volume archives", "none")
        return _Header(block[156:157], prefix + b"/" + name if prefix else name, size)

    def _is_file(self, header: _Header, name: str) -> bool:
        """Whether it is a regular file rather than a folder. Refuses all else."""
        if header.kind == _FOLDER:
            self._folders += 1
            if header.size or self._folders > MAX_FOLDERS:
                self._fail(f"folder {self._folders} of {header.size} bytes", f"{MAX_FOLDERS} at most, of 0 bytes")
            return False
        if header.kind not in _REGULAR:
            kind = _KINDS.get(header.kind, f"member of type {header.kind!r}")
            self._fail(f"{name!r}, a {kind}", "regular files and folders only")
        if header.size > self._max_member_bytes:
            self._fail(f"{name!r} of {header.size} bytes", f"{self._max_member_bytes} at most")
        if self._position + round_up(header.size, TAR_BLOCK) > self._bytes:
            self._fail(f"{name!r} of {header.size} bytes", f"them before the file's end at {self._bytes}: cut short?")
        self._check_name(name)
        return True

    def _check_name(self, name: str) -> None:
        """Each name once, with a key and an extension. (An index for DALI has spaces between its fields.)"""
        key, _, extension = name.rpartition("/")[2].partition(".")
        if not (key and extension and name.isprintable()) or " " in name:
            self._fail(f"the name {name!r}", "one like 000001.png, without spaces")
        plain = name.removeprefix("./")
        if plain in self._names:
            self._fail(f"{name!r} a second time", "each name once")
        if len(self._names) == MAX_MEMBERS:
            self._fail(f"more than {MAX_MEMBERS} members", "smaller tars")
        self._names.add(plain)

    def _name(self, name: bytes, header: _Header) -> str:
        """As it stands in the tar. Refuses what leads outside; `./` before is what `tar -C folder .` writes."""
        text = self._decode(name)
        parts = (text.rstrip("/") if header.kind == _FOLDER else text).split("/")
        parts = parts[1:] if parts[0] == "." else parts
        if "\0" in text or "" in parts or "." in parts or ".." in parts or not (parts or header.kind == _FOLDER):
            self._fail(f"the name {text!r}, absolute, or leading outside", "a plain relative path")
        return text

    def _extension(self, header: _Header) -> bytes:
        """The name that a GNU or pax header gives to the next member, or nothing."""
        if header.size > MAX_EXTENSION_BYTES:
            self._fail(f"a header of {header.size} bytes that describes a member", f"{MAX_EXTENSION_BYTES} at most")
        data = self._read(header.size, "a header that describes a member")
        self._position += round_up(header.size, TAR_BLOCK)
        name = data.rstrip(b"\0") if header.kind == _LONG_NAME else self._pax_path(data)
        if len(name) > MAX_NAME_BYTES or (name and header.kind == _PAX_GLOBAL):
            self._fail(f"a name of {len(name)} bytes, or for all members", f"{MAX_NAME_BYTES} at most, for one member")
        return name

    def _pax_path(self, data: bytes) -> bytes:
        """Records `LENGTH KEY=VALUE` and a line feed, the length counting itself."""
        path = b""
        while data:
            digits, space, _ = data[:6].partition(b" ")
            length = int(digits) if digits.isdigit() and space else 0
            record, data = data[:length], data[length:]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if len(record) != length or not length or not record.endswith(b"\n") or key not in _HARMLESS or not equals:
                self._fail(f"a pax header with {(key or data)[:60]!r}", "times, owners and paths only")
            path = value if key == b"path" else path
        return path

    def _check_end(self) -> None:
        """Two blocks of zeros, and nothing behind them but more."""
        rest = self._bytes - self._position
        if not len(_END) <= rest <= MAX_END_BYTES:
            self._fail(f"{rest} bytes after the last member", f"{len(_END)} to {MAX_END_BYTES} zeros: cut short?")
        if any(self._read(rest, "zeros")):
            self._fail("data behind the last member", "zeros to the end of the file")

    def _read(self, size: int, expected: str) -> bytes:
        data = os.pread(self._descriptor, size, self._position)
        if len(data) < size:
            self._fail(f"the end of the file, {self._bytes} bytes", f"{expected}: it was cut short")
        return data

    def _decode(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            return self._fail(f"the name {name!r}", "UTF-8")

    def _fail(self, found: str, expected: str) -> NoReturn:
        where = f"{self._where}: byte {self._position}, after {len(self._names)} members"
        raise CorruptShard(f"{where}: found {found}; expected {expected}; make or fetch the tar again")


def _checksum(header: bytes) -> int:
    """The sum of a header's bytes, its checksum taken as spaces: the lower half of an Adler-32, ten times faster.

    (Modulo 65,521, which only a header of hardly anything but bytes from 128 on could reach.)
    """
    return zlib.adler32(b"".join((header[:148], b"        ", header[156:])), 0) & 0xFFFF


def _octal(field: bytes) -> int | None:
    """A number of a tar header; None for base 256 (huge or negative sizes) and whatever else is not octal digits."""
    digits = field.rstrip(b" \0").lstrip(b" ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None
