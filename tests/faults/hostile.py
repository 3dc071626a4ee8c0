"""Tars that somebody made to harm whoever reads them, or that broke on their way.

    python -m tests.faults.hostile write FOLDER     each as a file in the folder
    python -m tests.faults.hostile measure FOLDER   seconds and memory to refuse each of them, as JSON

Every one holds a good sample first, so that a reader cannot give up at the very start.
"""

import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from shards import CorruptShard
from shards.format.image_layout import read_samples
from shards.format.ustar import read_archive

END = bytes(1024)
MANY = 110_000
Parts = Iterator[bytes]


def header(
    name: bytes = b"b.png",
    *,
    size: int | bytes = 0,
    kind: bytes = b"0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A header with a right checksum, whatever else is wrong with it."""
    block = bytearray(512)
    block[: len(name)] = name[:100]
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    return summed(block)


def summed(block: bytearray) -> bytes:
    """The header with its checksum made right."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes, *, kind: bytes = b"0") -> bytes:
    """A file with its header and padding."""
    return header(name, size=len(data), kind=kind) + data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax header."""
    return member(b"PaxHeaders/b", b"".join(pax_record(key, value) for key, value in records), kind=kind)


def pax_record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE`, the length counting itself."""
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


def png(width: int = 64, height: int = 64, *, depth: int = 8, colour: int = 0, more: bytes = b"") -> bytes:
    """A black PNG that says this of itself; with chunks `more` before its pixels, which are those of 64x64 gray."""
    start = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(65 * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


GOOD = member(b"a.png", png()) + member(b"a.cls", b"0")
LABEL = member(b"b.cls", b"0")
IMAGE = member(b"b.png", png())


def many(kind: bytes) -> Parts:
    """More members than anybody needs, each of no bytes."""
    yield GOOD
    for number in range(MANY):
        yield header(b"%06d/" % number if kind == b"5" else b"%06d.png" % number, kind=kind)


def sparse_end() -> Parts:
    """A tar as large as a disk, of zeros that take no room on it."""
    yield GOOD


TEXTS: dict[str, bytes] = {
    "parent folder": GOOD + member(b"../b.png", b"x") + END,
    "parent folder in the middle": GOOD + member(b"c/../../b.png", b"x") + END,
    "absolute name": GOOD + member(b"/etc/b.png", b"x") + END,
    "empty name": GOOD + member(b"", b"x") + END,
    "name with NUL": GOOD + member(b"b.png\0.txt", b"x") + END,
    "name with space": GOOD + member(b"b c.png", b"x") + END,
    "name with line feed": GOOD + member(b"b\n.png", b"x") + END,
    "name not UTF-8": GOOD + member(b"\xff\xfe.png", b"x") + END,
    "hidden name": GOOD + member(b"c/.b.png", b"x") + END,
    "name without extension": GOOD + member(b"README", b"x") + END,
    "hard link": GOOD + header(kind=b"1", link=b"/etc/passwd") + LABEL + END,
    "symbolic link": GOOD + header(kind=b"2", link=b"/etc/passwd") + LABEL + END,
    "character device": GOOD + header(kind=b"3") + LABEL + END,
    "block device": GOOD + header(kind=b"4") + LABEL + END,
    "folder with data": GOOD + header(b"b/", kind=b"5", size=512) + bytes(512) + END,
    "pipe": GOOD + header(kind=b"6") + LABEL + END,
    "contiguous file": GOOD + header(kind=b"7") + LABEL + END,
    "unknown type": GOOD + header(kind=b"Z") + LABEL + END,
    "sparse file": GOOD + header(kind=b"S", size=512, magic=b"ustar  \0") + bytes(512) + LABEL + END,
    "name twice": GOOD + member(b"a.png", png()) + END,
    "name twice, once with dot": GOOD + member(b"./a.png", png()) + member(b"./a.cls", b"1") + END,
    "size -512": GOOD + header(size=b"\xff" + (-512).to_bytes(11, signed=True)) + LABEL + END,
    "size 4 EiB": GOOD + header(size=b"\x80" + (1 << 62).to_bytes(11)) + LABEL + END,
    "size with sign": GOOD + header(size=b"-0000001000\0") + LABEL + END,
    "size not octal": GOOD + header(size=b"00000000009\0") + LABEL + END,
    "size empty": GOOD + header(size=bytes(12)) + LABEL + END,
    "size beyond the file": GOOD + header(size=1 << 20) + bytes(4096) + END,
    "size over 1 MiB": GOOD + member(b"b.png", bytes((1 << 20) + 1)) + LABEL + END,
    "pax of 64 GiB": GOOD + header(b"PaxHeaders/b", kind=b"x", size=b"\x80" + (64 << 30).to_bytes(11)) + IMAGE + END,
    "pax of 8 GiB": GOOD + header(b"PaxHeaders/b", kind=b"x", size=(8 << 30) - 1) + IMAGE + END,
    "pax size": GOOD + pax((b"size", b"5")) + IMAGE + LABEL + END,
    "pax link": GOOD + pax((b"linkpath", b"/etc/passwd")) + IMAGE + LABEL + END,
    "pax sparse": GOOD + pax((b"GNU.sparse.major", b"1")) + IMAGE + LABEL + END,
    "pax path outside": GOOD + pax((b"path", b"../../b.png")) + IMAGE + LABEL + END,
    "pax path for all": GOOD + pax((b"path", b"c.png"), kind=b"g") + IMAGE + LABEL + END,
    "pax record too long": GOOD + member(b"PaxHeaders/b", b"99 mtime=1\n", kind=b"x") + IMAGE + LABEL + END,
    "pax record of length 0": GOOD + member(b"PaxHeaders/b", b"0 mtime=1\n", kind=b"x") + IMAGE + LABEL + END,
    "pax without a member": GOOD + pax((b"path", b"b.png")) + END,
    "pax ever again": GOOD + pax((b"mtime", b"1")) * 100 + IMAGE + LABEL + END,
    "name of 1 MB": GOOD + member(b"././@LongLink", b"n" * 1_000_000, kind=b"L") + IMAGE + LABEL + END,
    "name of 8 kB": GOOD + member(b"././@LongLink", b"n" * 8000 + b".png", kind=b"L") + IMAGE + LABEL + END,
    "multi-volume": GOOD + header(kind=b"M", magic=b"ustar  \0") + LABEL + END,
    "GNU extra fields": GOOD
    + summed(bytearray(header(magic=b"ustar  \0")[:400] + b"1" * 12 + bytes(100)))
    + LABEL
    + END,
    "wrong checksum": GOOD + IMAGE[:100] + b"1" + IMAGE[101:] + LABEL + END,
    "no magic": GOOD + header(magic=b"USTAR\x0000") + LABEL + END,
    "one zero block": GOOD + bytes(512) + IMAGE + LABEL + END,
    "data behind the end": GOOD + END + IMAGE + LABEL + END,
    "no end": GOOD,
    "half an end": GOOD + bytes(512),
    "an odd length": GOOD + END + b"\0",
    "cut in a member": GOOD + IMAGE[:-512],
    "gzip": b"\x1f\x8b\x08" + bytes(1021),
    "empty file": b"",
    "image without label": GOOD + IMAGE + END,
    "label without image": GOOD + LABEL + END,
    "label apart from its image": GOOD + IMAGE + member(b"c.png", png()) + LABEL + member(b"c.cls", b"0") + END,
    "two images": GOOD + IMAGE + member(b"b.jpg", png()) + LABEL + END,
    "pickle": GOOD + member(b"b.pyd", b"cos\nsystem\n(S'touch canary'\ntR.") + END,
    "label -1": GOOD + IMAGE + member(b"b.cls", b"-1") + END,
    "label C": GOOD + IMAGE + member(b"b.cls", b"3") + END,
    "label 2**31": GOOD + IMAGE + member(b"b.cls", b"2147483648") + END,
    "label 2**64": GOOD + IMAGE + member(b"b.cls", b"%d" % (1 << 64)) + END,
    "label 1.0": GOOD + IMAGE + member(b"b.cls", b"1.0") + END,
    "label in words": GOOD + IMAGE + member(b"b.cls", "一".encode()) + END,
    "label empty": GOOD + IMAGE + member(b"b.cls", b"") + END,
    "label of 1 MiB": GOOD + IMAGE + member(b"b.cls", b"0" * (1 << 20)) + END,
}
STREAMS: dict[str, Callable[[], Parts]] = {
    "many members": lambda: many(b"0"),
    "many folders": lambda: many(b"5"),
    "an end of 64 GiB": sparse_end,
}

BAD_IMAGES: dict[str, bytes] = {
    "no bytes": b"",
    "text": b"an image",
    "65,535 pixels a side": png(65535, 65535),
    "2**31-1 pixels a side": png((1 << 31) - 1, (1 << 31) - 1),
    "32 pixels a side": png(32, 32),
    "RGB": png(colour=2),
    "16-bit": png(depth=16),
    "1-bit": png(depth=1),
    "wrong crc32": png()[:-20] + b"\x01" + png()[-19:],
    "cut short": png()[:-30],
    "animated": png(more=chunk(b"acTL", struct.pack(">II", 2, 0))),
    "bytes behind": png() + b"\0",
    "header alone": png()[:33],
    "pixels missing": png()[:33] + chunk(b"IDAT", zlib.compress(bytes(65 * 30))) + chunk(b"IEND", b""),
    "JPEG without a size": b"\xff\xd8\xff\xe0\x00\x04ab\xff\xd9",
    "JPEG of 65,535 pixels a side": b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9",
    "JPEG of 64x64 without pixels": b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x40\x00\x40\x01\x01\x11\x00\xff\xd9",
}


def write(folder: Path) -> None:
    """Each tar under its name."""
    for name, data in TEXTS.items():
        (folder / f"{name}.tar").write_bytes(data)
    for name, parts in STREAMS.items():
        with (folder / f"{name}.tar").open("wb") as file:
            file.writelines(parts())
            if name == "an end of 64 GiB":
                os.truncate(file.fileno(), file.tell() + (64 << 30))
            else:
                file.write(END)


def with_images(path: Path, images: list[bytes]) -> None:
    """A tar that is right but for its images."""
    pairs = enumerate(images)
    members = (member(b"%06d.png" % n, image) + member(b"%06d.cls" % n, b"%d" % (n % 3)) for n, image in pairs)
    path.write_bytes(b"".join(members) + END)


def measure(folder: Path) -> None:
    """Have the indexer refuse each, and print what that took."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (proc_pid_clear_refs(5))
        before, started = _memory("VmRSS"), time.perf_counter()
        try:
            read_samples(path, read_archive(path), classes=3)
        except CorruptShard:
            seconds = time.perf_counter() - started
            found[path.stem] = {"seconds": round(seconds, 4), "grown_bytes": _memory("VmHWM") - before}
    sys.stdout.write(json.dumps(found))


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


if __name__ == "__main__":
    {"write": write, "measure": measure}[sys.argv[1]](Path(sys.argv[2]))
