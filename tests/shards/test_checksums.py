"""Checksums: those that the standard tools print."""

import io
from pathlib import Path

import pytest

from shards.checksums import crc32, file_digest, next_crc32

CHECK = b"123456789"  # the usual check value of a CRC


def test_known_values(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(path, "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert crc32(CHECK) == 0xCBF43926
    assert crc32(CHECK[4:], crc32(CHECK[:4])) == 0xCBF43926


@pytest.mark.parametrize("size", [0, 9, (1 << 20) + 1, (3 << 20) - 1])
def test_of_the_next_bytes_only(size: int) -> None:
    data = bytes(range(256)) * (1 << 14)
    file = io.BytesIO(b"before" + data)
    file.seek(6)
    assert next_crc32(file, size) == crc32(data[:size])
    assert file.tell() == 6 + size


def test_a_file_that_ends_early_gives_another_checksum() -> None:
    assert next_crc32(io.BytesIO(CHECK[:-1]), len(CHECK)) == crc32(CHECK[:-1]) != crc32(CHECK)
