"""The tar reader reads what tar programs write, and refuses what is damaged, cut short or hostile."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.errors import InputError
from shards.format.tar_headers import MAX_END_BYTES, MAX_MEMBER_BYTES
from tools.ingest.tar_stream import stream_archive

END = bytes(1024)
SMALL = {"kkanji2/U+4E00/a.png": b"a" * 700, "kkanji2/U+4E00/b.png": b"", "kkanji2/U+4E01/c.png": b"c" * 512}


def header(
    name: bytes = b"kkanji2/U+4E00/a.png", *, size: int | bytes = 0, kind: bytes = b"0", link: bytes = b""
) -> bytes:
    """A USTAR header with a right checksum, whatever else is wrong with it."""
    block = bytearray(512)
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes = b"kkanji2/U+4E00/a.png", data: bytes = b"x", *, kind: bytes = b"0") -> bytes:
    return header(name, size=len(data), kind=kind) + data + bytes(-len(data) % 512)


def pax(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


def tar_of(files: dict[str, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], dict[str, bytes]]:
    """Reads an archive of these bytes."""

    def read_bytes(data: bytes) -> dict[str, bytes]:
        path = tmp_path / "kkanji.tar"
        path.unlink(missing_ok=True)  # ext4 flushes a file that is truncated and rewritten: 3 ms each
        path.write_bytes(data)
        return {found.name: found.data for found in stream_archive(path)}

    return read_bytes


Read = Callable[[bytes], dict[str, bytes]]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_what_tar_programs_write(read: Read, tar_format: int, pack: Callable[[bytes], bytes]) -> None:
    long = {"d" * 90 + "/" + "e" * 60 + "/U+4E00/a.png": b"long"}
    assert read(pack(tar_of(SMALL | long, tar_format))) == SMALL | long


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_names_that_need_an_extension(read: Read, tar_format: int) -> None:
    files = {"d" * 300 + "/U+4E00/a.png": b"long", "古/U+4E00/b.png": b"kanji"}
    assert read(tar_of(files, tar_format)) == files


def test_reads_folders_dots_and_global_headers(read: Read) -> None:
    data = member(b"pax_global_header", pax(b"comment", b"0" * 40), kind=b"g")
    data += header(b"./kkanji2/", kind=b"5") + member(b"./kkanji2/U+4E00/a.png", b"a") + END
    assert read(data) == {"kkanji2/U+4E00/a.png": b"a"}


@pytest.mark.parametrize("key", [b"SCHILY.xattr.user.note", b"LIBARCHIVE.creationtime", b"mtime"])
def test_attributes_that_macos_and_linux_add_are_harmless(read: Read, key: bytes) -> None:
    data = member(b"PaxHeader/a", pax(key, b"\xff\n1.5"), kind=b"x") + member(b"U+4E00/a.png", b"a") + END
    assert read(data) == {"U+4E00/a.png": b"a"}


def test_every_cut_is_detected(read: Read) -> None:
    whole = tar_of(SMALL).rstrip(b"\0")
    whole += bytes(-len(whole) % 512) + END
    assert read(whole) == SMALL
    for length in range(len(whole)):
        with pytest.raises(InputError, match="cut short"):
            read(whole[:length])


def test_every_cut_of_a_gzipped_tar_is_detected(read: Read) -> None:
    whole = gzip.compress(tar_of(SMALL))
    for length in range(len(whole)):
        with pytest.raises(InputError, match=r"cut short|starts with"):
            read(whole[:length])


def test_a_cut_is_reported_with_offset_and_last_member(read: Read, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tar_of(SMALL)[: 512 + 1024 + 100])
    assert str(caught.value) == (
        f"{tmp_path}/kkanji.tar: ends at byte 1636 of the unpacked archive, after 'kkanji2/U+4E00/a.png'; expected a "
        "member or the two zero blocks that end an archive: it was cut short, fetch or copy it again"
    )


def test_every_flipped_bit_of_a_header_is_detected_or_harmless(read: Read) -> None:
    whole = tar_of(SMALL)
    second = 512 + 1024
    unnoticed = 0
    for bit in range(512 * 8):
        data = bytearray(whole)
        data[second + bit // 8] ^= 1 << bit % 8
        try:
            assert read(bytes(data)) == SMALL
            unnoticed += 1
        except InputError:
            pass
    assert unnoticed <= 16  # the NUL and the space that end the checksum field


def test_every_flipped_bit_of_a_gzipped_tar_is_detected_or_harmless(read: Read) -> None:
    whole = gzip.compress(tar_of(SMALL), mtime=0)
    for bit in range(len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        try:
            assert read(bytes(data)) == SMALL
        except InputError:
            pass


BASE_256_4_EIB = b"\x80" + (1 << 62).to_bytes(11)
BASE_256_MINUS_512 = b"\xff" + (-512).to_bytes(11, signed=True)


HOSTILE = {
    "parent folder": (member(b"../escape.png") + END, "leads outside"),
    "parent folder in the middle": (member(b"kkanji2/../../escape.png") + END, "leads outside"),
    "absolute name": (member(b"/etc/passwd") + END, "leads outside"),
    "symbolic link": (header(kind=b"2", link=b"/etc/passwd") + END, "symbolic link"),
    "hard link": (header(kind=b"1", link=b"/etc/passwd") + END, "hard link"),
    "character device": (header(kind=b"3") + END, "device"),
    "block device": (header(kind=b"4") + END, "device"),
    "pipe": (header(kind=b"6") + END, "pipe"),
    "size elsewhere": (member(b"p", pax(b"SCHILY.realsize", b"9"), kind=b"x") + member() + END, "SCHILY.realsize"),
    "sparse": (header(kind=b"S") + END, "sparse file"),
    "contiguous": (header(kind=b"7") + END, "member of type b'7'"),
    "size -512": (header(size=BASE_256_MINUS_512) + END, "negative, huge or no number"),
    "size -512 in octal": (header(size=b"-0000001000\0") + END, "negative, huge or no number"),
    "4 EiB": (header(size=BASE_256_4_EIB) + END, "negative, huge or no number"),
    "8 GiB": (header(size=b"77777777777\0") + END, "of 8589934591 bytes; expected 1048576 at most"),
    "over 1 MiB": (header(size=MAX_MEMBER_BYTES + 1) + END, "of 1048577 bytes"),
    "folder with data": (header(size=1, kind=b"5") + END, "a folder of 1 bytes"),
    "pax header of 4 GiB": (
        header(size=64 << 30 >> 4, kind=b"x") + END,
        "a header of 4294967296 bytes that describes a member",
    ),
    "pax header of 4 EiB": (header(size=BASE_256_4_EIB, kind=b"x") + END, "negative, huge or no number"),
    "long name of 1 MiB": (
        header(size=1 << 20, kind=b"L") + END,
        "a header of 1048576 bytes that describes a member; expected 65536 at most",
    ),
    "pax size": (member(b"pax", pax(b"size", b"99"), kind=b"x") + member() + END, "a pax header with b'size'"),
    "pax sparse": (member(b"pax", pax(b"GNU.sparse.name", b"x"), kind=b"x") + member() + END, "GNU.sparse.name"),
    "pax parent folder": (member(b"pax", pax(b"path", b"../x"), kind=b"x") + member() + END, "leads outside"),
    "pax path for all": (
        member(b"pax", pax(b"path", b"x"), kind=b"g") + member() + END,
        "a name of 1 bytes, or for all members",
    ),
    "pax record too long": (member(b"pax", b"99 path=x\n", kind=b"x") + member() + END, "a damaged pax header"),
    "pax record of length 0": (member(b"pax", b"0 path=x\n", kind=b"x") + member() + END, "a damaged pax header"),
    "pax without member": (member(b"pax", pax(b"path", b"x"), kind=b"x") + END, "a long name without its member"),
    "five pax headers": (
        member(b"pax", pax(b"path", b"x"), kind=b"x") * 5 + member() + END,
        "more than 4 headers that describe one member",
    ),
    "long parent folder": (member(b"long", b"../x\0", kind=b"L") + member() + END, "leads outside"),
    "twice the same": (member() + member() + END, "a second time"),
    "twice the same, dotted": (member() + member(b"./kkanji2//U+4E00/a.png") + END, "a second time"),
    "Latin-1 name": (member(b"U+4E00/\xff.png") + END, "expected UTF-8"),
    "no name": (member(b"") + END, "the name '', unusable"),
    "a zero block between": (
        member() + bytes(512) + member(b"b") + END,
        "data after the zero block that ends an archive",
    ),
    "archive after archive": (member() + END + member(b"b") + END, "data after the zero block that ends an archive"),
    "2,048 zero blocks too many": (member() + END + bytes(MAX_END_BYTES + 512), "more than 4194304 zeros after"),
    "junk between": (member() + b"junk" * 128 + END, "a damaged header"),
    "zip": (b"PK\x03\x04".ljust(512, b"x"), "starts with 50 4b 03 04 78 78 78 78, not with a tar header"),
    "empty": (b"", "ends at byte 0 of the unpacked archive, before its first file"),
    "junk after gzip": (gzip.compress(member() + END) + b"junk", "damaged gzip data"),
    "wrong gzip checksum": (gzip.compress(member() + END)[:-8] + bytes(8), "damaged gzip data"),
    "gzip bomb": (gzip.compress(bytes(1 << 24)), "more than 4194304 zeros after"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(read: Read, name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(InputError, match=message):
        read(data)
