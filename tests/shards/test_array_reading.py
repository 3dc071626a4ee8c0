"""Arrays whose headers say more than there is: refused before memory is taken for them."""

import io
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from shards.array_reading import map_array, parse_array

WHOLE = np.arange(12, dtype=np.uint64).reshape(3, 4)


def npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(header)) + header + body


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array)  # type: ignore[arg-type]
    return file.getvalue()


HOSTILE = {
    "2**40 rows": npy(b"{'descr':'<u8','fortran_order':False,'shape':(1099511627776,)}\n"),
    "2**80 bytes": npy(b"{'descr':'<u8','fortran_order':False,'shape':(1099511627776,1099511627776)}\n"),
    "negative": npy(b"{'descr':'<u8','fortran_order':False,'shape':(-1,)}\n"),
    "objects": npy(b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n", b"cos\nsystem\n(S'touch canary'\ntR."),
    "brackets": npy(b"(" * 9000),
    "long header": npy(b" " * 60_000),
    "version 2, 4 GiB header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "no dictionary": npy(b"[1, 2]\n"),
    "another descr": npy(b"{'descr':'zz','fortran_order':False,'shape':(1,)}\n"),
    "nothing": b"",
    "text": b"no array at all",
    "cut": saved(WHOLE)[:-3],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.npy").write_bytes(HOSTILE[name])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"array|bytes|numbers"):
        parse_array(HOSTILE[name])
    with pytest.raises(ValueError, match=r"array|bytes|numbers"):
        map_array(tmp_path / "x.npy")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_a_whole_array_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(saved(WHOLE))
    assert np.array_equal(map_array(tmp_path / "x.npy"), WHOLE) and np.array_equal(parse_array(saved(WHOLE)), WHOLE)
    empty = np.empty((0, 4), np.uint8)
    assert parse_array(saved(empty)).shape == (0, 4)


@pytest.mark.parametrize(
    ("kind", "error", "found"),
    [
        ("pipe", OSError, "a pipe or a device, expected a regular file"),
        ("device", OSError, "a pipe or a device, expected a regular file"),
        ("archive", ValueError, "an archive"),
    ],
)
def test_what_is_no_file_of_one_array_is_refused_without_waiting(
    tmp_path: Path, kind: str, error: type[Exception], found: str
) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x.npy"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "archive":
        with path.open("wb") as file:
            np.savez(file, a=WHOLE)
    with pytest.raises(error, match=found):
        map_array(path)
