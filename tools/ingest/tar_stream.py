"""Tar archives read as a stream, strictly: nothing is unpacked to disk, and a damaged archive is never a shorter one.

The standard library's tarfile takes an archive that was cut between two members, or that has a damaged header, for one
that ends there, without an error. Here every header's checksum must be right and the two zero blocks must close the
archive. USTAR, GNU long names and pax paths are read: what tar programs write for regular files.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from shards.errors import InputError

MAX_MEMBER_BYTES = 1 << 20  # an image of 64x64 pixels takes about 1.5 kB
MAX_NAME_BYTES = 4 << 10
MAX_PAX_BYTES = 64 << 10
MAX_PADDING_BYTES = 1 << 20  # zeros after the end: tar fills a record, 10 KiB unless -b says otherwise
MAX_EXTENSIONS = 4  # headers that describe the next member

_BLOCK = 512
_GZIP_MAGIC = b"\x1f\x8b"
_REGULAR, _FOLDER, _LONG_NAME, _PAX, _PAX_GLOBAL = (b"0", b"\0"), b"5", b"L", b"x", b"g"
_KINDS = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"6": "pipe", b"S": "sparse file"}
_PAX_REFUSED = ("size", "linkpath", "GNU.sparse.")  # what would make another reader see other bytes than this one


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A regular file of an archive or a folder."""

    name: str
    """Its path inside, with slashes."""
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    kind: bytes
    name: str
    size: int


def read_archive(path: Path) -> Iterator[Member]:
    """The regular files of a .tar, .tar.gz or .tgz in their order.

    Raises: InputError for what is damaged, cut short, or not a plain file under a plain relative name.
    """
    with path.open("rb") as file:
        packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if not packed:
            yield from _TarReader(path, file).members()
            return
        with gzip.open(file) as stream:
            yield from _TarReader(path, stream).members()


class _TarReader:
    """Where the reading of one archive has got to, which every message says."""

    def __init__(self, path: Path, stream: BinaryIO | gzip.GzipFile) -> None:
        self._path = path
        self._stream = stream
        self._position = 0
        self._last_member = ""
        self._names: set[str] = set()

    def members(self) -> Iterator[Member]:
        long_name, extensions = "", 0
        while (header := self._next_header()) is not None:
            if header.kind in (_LONG_NAME, _PAX, _PAX_GLOBAL):
                extensions += 1
                self._require(extensions <= MAX_EXTENSIONS, f"more than {MAX_EXTENSIONS} headers for one member")
                long_name = self._extension(header) or long_name
                continue
            member = self._member(header, long_name or header.name)
            long_name, extensions = "", 0
            if member is not None:
                yield member
        self._require(not long_name, "a long name without its member")
        self._check_padding()

    def _next_header(self) -> _Header | None:
        """The next header, or None at the end of the archive."""
        block = self._read(_BLOCK, "a member or the two zero blocks that end an archive")
        if block == bytes(_BLOCK):
            second = self._read(_BLOCK, "the second of the two zero blocks that end an archive")
            self._require(second == bytes(_BLOCK), "one zero block between members")
            return None
        return self._parse(block)

    def _parse(self, block: bytes) -> _Header:
        if self._position == _BLOCK and block[257:262] != b"ustar":
            raise InputError(
                f"{self._path}: starts with {block[:8].hex(' ')}, not with a tar header; "
                "expected a .tar, .tar.gz or .tgz archive, or a folder"
            )
        checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        self._require(block[257:262] == b"ustar" and _octal(block[148:156]) == checksum, "a damaged header")
        size = _octal(block[124:136])
        if size is None:
            self._fail("a size that is negative, over 8 GiB or no number")
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and block[345] != 0:
            name = _text(block[345:500]) + b"/" + name
        return _Header(kind=block[156:157], name=self._decode(name), size=size)

    def _member(self, header: _Header, name: str) -> Member | None:
        """The member with its data; None for a folder."""
        self._check_name(name, header)
        if header.kind == _FOLDER:
            self._require(header.size == 0, f"{name!r}, a folder of {header.size} bytes")
            return None
        data = self._body(header, MAX_MEMBER_BYTES, name)
        self._last_member = name
        return Member(name=_plain(name), data=data)

    def _check_name(self, name: str, header: _Header) -> None:
        if header.kind not in (*_REGULAR, _FOLDER):
            kind = _KINDS.get(header.kind, f"member of type {header.kind!r}")
            self._fail(f"{name!r}, a {kind}; expected regular files and folders only")
        plain = _plain(name)
        self._require(not name.startswith("/") and ".." not in plain.split("/"), f"{name!r}, a path that leads outside")
        self._require("\0" not in name and bool(plain or header.kind == _FOLDER), f"{name!r}, an unusable name")
        self._require(header.kind == _FOLDER or plain not in self._names, f"{name!r} a second time")
        self._names.add(plain)

    def _extension(self, header: _Header) -> str:
        """The path that a GNU or pax header gives to the next member, or nothing."""
        if header.kind == _LONG_NAME:
            return self._decode(_text(self._body(header, MAX_NAME_BYTES, "a long name")))
        fields = self._pax_fields(self._body(header, MAX_PAX_BYTES, "a pax header"))
        refused = [key for key in fields if key.startswith(_PAX_REFUSED)]
        self._require(not refused, f"a pax header that sets {refused}")
        self._require(header.kind == _PAX or "path" not in fields, "a pax header that names all members alike")
        path = fields.get("path", "")
        self._require(len(path) <= MAX_NAME_BYTES, f"a name of {len(path)} characters, over {MAX_NAME_BYTES}")
        return path

    def _pax_fields(self, data: bytes) -> dict[str, str]:
        """Records `LENGTH KEY=VALUE` and a line feed, the length counting itself."""
        fields, rest = {}, data
        while rest:
            digits, _, _ = rest[:6].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record, rest = rest[:length], rest[length:]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            self._require(len(record) == length > 0 and record.endswith(b"\n") and bool(equals), "a damaged pax header")
            fields[self._decode(key)] = value.decode("utf-8", "replace") if key != b"path" else self._decode(value)
        return fields

    def _body(self, header: _Header, most: int, name: str) -> bytes:
        self._require(header.size <= most, f"{name!r} of {header.size} bytes; expected {most} at most")
        data = self._read(header.size, f"{header.size} bytes of {name!r}")
        self._read(-header.size % _BLOCK, f"the padding of {name!r}")
        return data

    def _check_padding(self) -> None:
        """Reading on to the end also has gzip compare its checksum."""
        total = 0
        while data := self._read_some(64 << 10):
            total += len(data)
            self._require(not any(data) and total <= MAX_PADDING_BYTES, "data after the archive's end")

    def _read(self, size: int, expected: str) -> bytes:
        parts, missing = [], size
        while missing and (data := self._read_some(missing)):
            parts.append(data)
            missing -= len(data)
        if missing:
            self._cut(expected)
        return b"".join(parts)

    def _read_some(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError:
            self._cut("the end of the gzip stream")
        except (gzip.BadGzipFile, zlib.error) as error:
            self._fail(f"damaged gzip data ({error})")
        self._position += len(data)
        return data

    def _require(self, condition: bool, found: str) -> None:
        if not condition:
            self._fail(found)

    def _fail(self, found: str) -> NoReturn:
        raise InputError(
            f"{self._path}: found {found}, at about byte {self._position} of the unpacked archive, {self._after()}; "
            "fetch or make the archive again"
        )

    def _cut(self, expected: str) -> NoReturn:
        raise InputError(
            f"{self._path}: ends at byte {self._position} of the unpacked archive, {self._after()}; "
            f"expected {expected}: it was cut short, fetch or copy it again"
        )

    def _after(self) -> str:
        return f"after {self._last_member!r}" if self._last_member else "before its first file"

    def _decode(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError:
            self._fail(f"the name {name!r}, which is not UTF-8")


def _octal(field: bytes) -> int | None:
    """A number of a tar header; None for base 256 (huge or negative sizes) and whatever else is not octal digits."""
    digits = _text(field).strip(b" ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _plain(name: str) -> str:
    """Without `./` before and `/` behind."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
