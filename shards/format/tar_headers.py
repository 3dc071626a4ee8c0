"""The headers of a tar, read strictly: an archive that could mean two things to two programs is refused.

This is the only tar parser: `shards.format.ustar` reads archives in place with it, `tools.ingest.tar_stream` streams.
The standard library's tarfile does not serve: it takes an archive that was cut between two members, or that has a
damaged header, for one that ends there, without an error.

Accepted is what `tar`, Python's tarfile, bsdtar and webdataset's TarWriter write for regular files: USTAR, GNU and v7
headers, folders, and pax headers or GNU long names that only give a file's name, times, owner or attributes. Refused
are links, devices, sparse files, names that lead outside or occur twice, sizes that are negative, huge or stated
elsewhere than in the header, damaged headers, and archives that do not end with zeros.
"""

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from shards.format.layout import TAR_BLOCK, round_up

MAX_MEMBER_BYTES = 1 << 20  # an image of 64x64 pixels takes about 1.5 kB
MAX_EXTENSION_BYTES = 64 << 10
MAX_NAME_BYTES = 4 << 10
MAX_EXTENSIONS = 4  # headers that describe the next member
MAX_END_BYTES = 4 << 20  # zeros after the last member: tar fills a record, 10 KiB unless -b says otherwise

_REGULAR, _FOLDER, _LONG_NAME, _PAX, _PAX_GLOBAL = (b"0", b"\0"), b"5", b"L", b"x", b"g"
_KINDS = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "pipe", b"S": "sparse file"}
_MAGICS = (b"ustar\x0000", b"ustar  \0", bytes(8))  # POSIX, GNU, v7
# What a pax header may give without a change of the bytes that any program finds in the member.
_HARMLESS = {b"path", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname", b"comment"}
_HARMLESS_VENDORS = (
    *(b"LIBARCHIVE.", b"MSWINDOWS.", b"RHT.security.", b"SCHILY.acl.", b"SCHILY.dev", b"SCHILY.fflags"),
    *(b"SCHILY.ino", b"SCHILY.nlink", b"SCHILY.xattr."),
)
_END_CHUNK = 64 << 10


class TarProblem(Exception):
    """Something in a tar that is refused."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.found, self.expected = found, expected


class NotATar(TarProblem):
    """The very first block is not a tar header."""

    def __init__(self, block: bytes) -> None:
        self.first = block[:8]
        super().__init__(f"a damaged header, {self.first.hex(' ')} ...", "one of a tar with a right checksum")


class CutShort(TarProblem):
    """The archive ends where more must follow."""

    def __init__(self, end: int, expected: str) -> None:
        super().__init__(f"the end at byte {end}", f"{expected}: it was cut short")
        self.end, self.needed = end, expected


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    """As in the tar."""
    start: int
    """Where its first header starts, in bytes from the start of the tar."""
    offset: int
    """Where its data starts, in bytes from the start of the tar."""
    size: int
    """Bytes of its data, without the padding."""

    @property
    def key(self) -> str:
        """What the members of one sample share: the path up to the first dot of the file's name."""
        return self.name[: self.name.find(".", self.name.rfind("/") + 1)]

    @property
    def extension(self) -> str:
        """The rest of the name, without that dot."""
        return self.name[len(self.key) + 1 :]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may have at most, so that a hostile one takes little memory."""

    member_bytes: int = MAX_MEMBER_BYTES
    """Bytes of one regular file."""
    members: int = sys.maxsize
    """Regular files; by default any number."""
    folders: int = sys.maxsize
    """Folders; by default any number."""


class _Header(NamedTuple):
    kind: bytes
    name: bytes
    size: int


class TarHeaders:
    """The members of a tar, one after another: call `next_member`, then `data` or `skip`, until there are none left.

    Every method raises TarProblem, and what `read` raises.
    """

    def __init__(self, read: Callable[[int, int], bytes], limits: Limits) -> None:
        """read: returns `size` bytes from a position on, fewer only at the end; positions only ever grow."""
        self.position = 0
        """Bytes from the start of the tar: of the header that is being read, or of the data that follows it."""
        self.count = 0
        """Members that are done with."""
        self._read_at, self._limits = read, limits
        self._names: set[str] = set()
        self._folders = 0

    def next_member(self) -> Member | None:
        """The next regular file; None once the end of the archive has been checked."""
        while True:
            start = self.position
            header, name = self._next_header()
            if header is None:
                return None
            if self._is_file(header, name):
                return Member(name, start, self.position, header.size)

    def data(self, member: Member) -> bytes:
        """The content of the member that `next_member` has just returned."""
        data = self._content(member.size, repr(member.name))
        self.count += 1
        return data

    def skip(self, member: Member) -> None:
        """Go on after the content of the member that `next_member` has just returned."""
        self.position += round_up(member.size, TAR_BLOCK)
        self.count += 1

    def _next_header(self) -> tuple[_Header | None, str]:
        """The next member's header, and its name: its own or that of extension headers before it. None at the end."""
        long_name = b""
        for _ in range(MAX_EXTENSIONS + 1):
            block = self._read(TAR_BLOCK, "a member or the two zero blocks that end an archive")
            if block == bytes(TAR_BLOCK):
                if long_name:
                    self._fail("a long name without its member", "the member")
                self._check_end()
                return None, ""
            header = self._parse(block)
            self.position += TAR_BLOCK
            if header.kind not in (_LONG_NAME, _PAX, _PAX_GLOBAL):
                return header, self._name(long_name or header.name, header)
            long_name = self._extension(header) or long_name
        return self._fail(f"more than {MAX_EXTENSIONS} headers that describe one member", "one or two")

    def _parse(self, block: bytes) -> _Header:
        if block[257:265] not in _MAGICS or _octal(block[148:156]) != _checksum(block):
            if self.position == 0:
                raise NotATar(block)
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
            if header.size:
                self._fail(f"{name!r}, a folder of {header.size} bytes", "folders of 0 bytes")
            if self._folders > self._limits.folders:
                self._fail(f"more than {self._limits.folders} folders", "smaller tars")
            return False
        if header.kind not in _REGULAR:
            kind = _KINDS.get(header.kind, f"member of type {header.kind!r}")
            self._fail(f"{name!r}, a {kind}", "regular files and folders only")
        if header.size > self._limits.member_bytes:
            self._fail(f"{name!r} of {header.size} bytes", f"{self._limits.member_bytes} at most")
        plain = plain_name(name)
        if plain in self._names:
            self._fail(f"{name!r} a second time", "each name once")
        if self.count == self._limits.members:
            self._fail(f"more than {self._limits.members} members", "smaller tars")
        self._names.add(plain)
        return True

    def _name(self, name: bytes, header: _Header) -> str:
        """As it stands in the tar. Refuses what leads outside."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return self._fail(f"the name {name!r}", "UTF-8")
        if text.startswith("/") or ".." in text.split("/"):
            self._fail(f"the name {text!r}, absolute, or leads outside", "a plain relative path")
        if "\0" in text or not (plain_name(text) or header.kind == _FOLDER):
            self._fail(f"the name {text!r}, unusable", "a plain relative path")
        return text

    def _extension(self, header: _Header) -> bytes:
        """The name that a GNU or pax header gives to the next member, or nothing."""
        if header.size > MAX_EXTENSION_BYTES:
            self._fail(f"a header of {header.size} bytes that describes a member", f"{MAX_EXTENSION_BYTES} at most")
        data = self._content(header.size, "a header that describes a member")
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
            if len(record) != length or not length or not record.endswith(b"\n") or not equals:
                self._fail(f"a damaged pax header, {(record or data)[:60]!r}", "records of a length, a key and a value")
            if key not in _HARMLESS and not key.startswith(_HARMLESS_VENDORS):
                self._fail(f"a pax header with {key[:60]!r}", "times, owners, attributes and paths only")
            path = value if key == b"path" else path
        return path

    def _check_end(self) -> None:
        """A second block of zeros after the one just read, and nothing but more zeros behind it.

        All of them are read, as a compressed stream compares its own checksum at its end.
        """
        size = TAR_BLOCK
        while data := self._read_at(self.position + size, _END_CHUNK):
            if any(data):
                self._fail("data after the zero block that ends an archive", "zeros to the end of the file")
            size += len(data)
            if size > MAX_END_BYTES:
                self._fail(f"more than {MAX_END_BYTES} zeros after the last member", "fewer")
        if size < 2 * TAR_BLOCK:
            raise CutShort(self.position + size, "the second of the two zero blocks that end an archive")

    def _content(self, size: int, what: str) -> bytes:
        """What follows a header, without its padding."""
        data = self._read(size, f"{size} bytes of {what}")
        self.position += size
        padding = -size % TAR_BLOCK
        self._read(padding, f"the padding of {what}")
        self.position += padding
        return data

    def _read(self, size: int, expected: str) -> bytes:
        data = self._read_at(self.position, size) if size else b""
        if len(data) < size:
            raise CutShort(self.position + len(data), expected)
        return data

    def _fail(self, found: str, expected: str) -> NoReturn:
        raise TarProblem(found, expected)


def plain_name(name: str) -> str:
    """A path without `./` before it, `/` after it and empty parts: two names that mean one file become the same."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _checksum(header: bytes) -> int:
    """The sum of a header's bytes, its checksum taken as spaces: the lower half of an Adler-32, ten times faster.

    (Modulo 65,521, which only a header of hardly anything but bytes from 128 on could reach.)
    """
    return zlib.adler32(b"".join((header[:148], b"        ", header[156:])), 0) & 0xFFFF


def _octal(field: bytes) -> int | None:
    """A number of a tar header; None for base 256 (huge or negative sizes) and whatever else is not octal digits."""
    digits = field.rstrip(b" \0").lstrip(b" ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None
