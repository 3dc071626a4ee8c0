"""Compressed shards unpack to the bytes of plain ones, and nothing that is wrong with one goes unseen."""

import hashlib
import io
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import lz4.frame
import numpy as np
import pytest
import zstandard

from shards import CorruptShard, InputError, Samples, Shard, write_shard
from shards.format import layout
from shards.format.compression import SUFFIXES, check_plain, check_stored, compress_block, damage, unpack_shard
from shards.format.manifest import Compression
from shards.format.shard_table import Block
from tests.shards.kinds import KINDS, Kind, drawn, write_kind

Compressed = Literal["zstd", "lz4"]
COMPRESSED: tuple[Compressed, ...] = ("zstd", "lz4")
SIZES = (3, 1, 130, 2)


@pytest.fixture(scope="module")
def blocks() -> list[Samples]:
    return [drawn(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, blocks: list[Samples]) -> tuple[Path, Shard]:
    path = tmp_path_factory.mktemp("plain") / "train-00000.tar"
    return path, write_shard(path, blocks)


@pytest.fixture(scope="module", params=COMPRESSED)
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, blocks: list[Samples]
) -> tuple[Path, Shard, Compression]:
    path = tmp_path_factory.mktemp("stored") / "train-00000.tar"
    return path, write_shard(path, blocks, compression=request.param), request.param


Stored = tuple[Path, Shard, Compression]


@pytest.mark.parametrize("threads", [1, 4])
def test_unpacks_to_the_plain_shard(stored: Stored, plain: tuple[Path, Shard], tmp_path: Path, threads: int) -> None:
    path, shard, compression = stored
    unpack_shard(shard, compression, path, tmp_path / "out.tar", threads=threads)
    assert (tmp_path / "out.tar").read_bytes() == plain[0].read_bytes()
    assert shard.plain == plain[1].blocks and shard.plain_bytes == plain[1].bytes
    assert shard.bytes < plain[1].bytes / 2, "did not compress"


def test_a_plain_shard_is_its_own_plain_form(plain: tuple[Path, Shard]) -> None:
    path, shard = plain
    assert shard.plain == shard.blocks and shard.plain_bytes == shard.bytes == path.stat().st_size


@pytest.mark.parametrize("compression", COMPRESSED)
def test_a_shard_without_blocks(tmp_path: Path, compression: Compressed) -> None:
    shard = write_shard(tmp_path / "a.tar", [], compression=compression)
    unpack_shard(shard, compression, tmp_path / "a.tar", tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "a.tar").read_bytes() == bytes(4096)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_each_time(tmp_path: Path, blocks: list[Samples], kind: Kind) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    shards = [write_kind(tmp_path / name / "a.tar", kind, blocks) for name in ("x", "y")]
    assert shards[0] == shards[1]
    for name in ("a.tar", "a.idx"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_a_block_too_large_to_unpack_in_memory_is_refused(tmp_path: Path) -> None:
    samples = Samples(np.zeros((16_385, 64, 64), np.uint8), np.zeros(16_385, np.int32), np.zeros(16_385, np.uint64))
    with pytest.raises(InputError, match="a compressed block of 16385 images; expected 16384 at most"):
        write_shard(tmp_path / "a.tar", [samples], compression="zstd")


def test_a_good_file_is_good(stored: Stored, plain: tuple[Path, Shard]) -> None:
    path, shard, _ = stored
    assert check_stored(shard, path) is None and check_plain(shard, plain[0]) is None
    assert check_stored(plain[1], plain[0]) is None and check_plain(plain[1], plain[0]) is None


def test_another_size_is_reported(stored: Stored, plain: tuple[Path, Shard], tmp_path: Path) -> None:
    path, shard, compression = stored
    assert check_plain(shard, path) == f"{shard.bytes} bytes, expected {shard.plain_bytes}"
    assert check_stored(shard, tmp_path / "absent.tar") == "No such file or directory"
    with pytest.raises(CorruptShard, match=rf"{plain[1].bytes} bytes, expected {shard.bytes}"):
        unpack_shard(shard, compression, plain[0], tmp_path / "out.tar")


def flipped(path: Path, position: int, target: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_a_flipped_bit_is_reported_by_block_and_byte(stored: Stored, tmp_path: Path, number: int) -> None:
    path, shard, compression = stored
    block = shard.blocks[number]
    for place in (0, 130, block.bytes // 2, block.bytes - 1):
        damaged = flipped(path, block.offset + place, tmp_path / "damaged.tar")
        where = f"block {number:06d} at byte {block.offset}"
        assert (check_stored(shard, damaged) or "").startswith(f"{where}: crc32 ")
        with pytest.raises(
            CorruptShard, match=rf"damaged.tar: {where} has crc32 \w+, expected {block.crc32:08x}; fetch"
        ):
            unpack_shard(shard, compression, damaged, tmp_path / "out.tar")


def test_data_in_the_end_of_the_archive_is_reported(stored: Stored, tmp_path: Path) -> None:
    path, shard, _ = stored
    end = shard.blocks[-1].offset + shard.blocks[-1].bytes
    for position in (end, shard.bytes - 1):
        found = check_stored(shard, flipped(path, position, tmp_path / "damaged.tar"))
        assert found == f"data in the end of the archive, from byte {end} on; expected zeros"


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_reported(tmp_path: Path, kind: Kind) -> None:
    """Every length from 0 on: the size alone tells, so a sparse file of that length does."""
    shard = write_kind(tmp_path / "a.tar", kind, [drawn(1), drawn(2, 1)])
    assert check_stored(shard, tmp_path / "a.tar") is None
    with (tmp_path / "a.tar").open("rb+") as file:
        for length in range(shard.bytes - 1, -1, -1):
            os.truncate(file.fileno(), length)
            assert check_stored(shard, tmp_path / "a.tar") == f"{length} bytes, expected {shard.bytes}"


def test_every_flipped_bit_of_a_shard_of_20_blocks_is_reported(tmp_path: Path) -> None:
    """In headers, image, label, paddings and the end."""
    path = tmp_path / "a.tar"
    shard = write_kind(path, "png", [drawn(1, number) for number in range(20)])
    end = shard.blocks[-1].offset + shard.blocks[-1].bytes
    for block in (*shard.blocks, None):
        first, size = (block.offset, block.bytes) if block else (end, shard.bytes - end)
        file = io.BytesIO(path.read_bytes()[first : first + size])
        blocks = [block] if block else []
        assert damage(file, blocks) is None
        with file.getbuffer() as data:
            for bit in range(8 * size):
                data[bit // 8] ^= 1 << bit % 8
                file.seek(0)
                assert damage(file, blocks), (first, bit)
                data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_changes_the_checksum_of_its_block(tmp_path: Path, kind: Kind) -> None:
    """By what is compared alone: what is before a stretch of 64 bytes is summed up once for all of it."""
    shard = write_kind(tmp_path / "a.tar", kind, [drawn(1), drawn(2, 1)])
    shard_bytes = (tmp_path / "a.tar").read_bytes()
    for block in shard.blocks:
        data = bytearray(shard_bytes[block.offset : block.offset + block.bytes])
        for start in range(0, len(data), 64):
            before, rest = zlib.crc32(data[:start]), data[start:]
            assert zlib.crc32(rest, before) == block.crc32
            for bit in range(8 * min(64, len(rest))):
                rest[bit // 8] ^= 1 << bit % 8
                assert zlib.crc32(rest, before) != block.crc32
                rest[bit // 8] ^= 1 << bit % 8


def forged(tmp_path: Path, compression: Compression, frame: bytes, samples: int = 1) -> tuple[Path, Shard]:
    """A shard with right checksums all over whose only frame was made by somebody else."""
    plain = layout.encode_block("000000", *drawn(samples))
    tail = plain[layout.PIXELS_OFFSET + samples * 4096 :]
    header = layout.tar_header(f"000000.images.npy.{SUFFIXES[compression]}", len(frame))
    data = header + frame + bytes(-len(frame) % 512) + tail
    block = Block(offset=0, bytes=len(data), samples=samples, crc32=zlib.crc32(data), plain_crc32=zlib.crc32(plain))
    data += layout.end_of_archive()
    (tmp_path / "forged.tar").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return tmp_path / "forged.tar", Shard(name="forged.tar", bytes=len(data), sha256=sha256, blocks=(block,))


def compressed(data: bytes, compression: Compression) -> bytes:
    return zstandard.compress(data, 19) if compression == "zstd" else bytes(lz4.frame.compress(data))


@pytest.mark.parametrize("compression", COMPRESSED)
def test_a_bomb_is_refused_at_the_expected_size(tmp_path: Path, compression: Compressed) -> None:
    path, shard = forged(tmp_path, compression, compressed(bytes(256 << 20), compression))
    with pytest.raises(CorruptShard, match="cannot be unpacked: more than the expected 7680 bytes"):
        unpack_shard(shard, compression, path, tmp_path / "out.tar")
    assert (tmp_path / "out.tar").stat().st_size == shard.plain_bytes


def test_a_frame_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(bytes(100)) + frame.flush()
    path, shard = forged(tmp_path, "zstd", data)
    with pytest.raises(CorruptShard, match=r"cannot be unpacked: .*memory"):
        unpack_shard(shard, "zstd", path, tmp_path / "out.tar")


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[: len(frame) // 2], "cannot be unpacked"),
        (lambda frame: frame[:0], "cannot be unpacked"),
        (lambda frame: b"\0" * len(frame), "cannot be unpacked"),
        (lambda frame: frame[:-5], "cannot be unpacked"),
    ],
)
def test_a_damaged_frame_with_right_checksums(
    tmp_path: Path, compression: Compressed, change: object, message: str
) -> None:
    plain = layout.encode_block("000000", *drawn(1))
    stored = compress_block("000000", plain, 1, compression)
    size = int(stored[124:135], 8)
    assert callable(change)
    path, shard = forged(tmp_path, compression, change(stored[512 : 512 + size]))
    with pytest.raises(CorruptShard, match=message):
        unpack_shard(shard, compression, path, tmp_path / "out.tar")


@pytest.mark.parametrize("compression", COMPRESSED)
def test_other_images_than_the_manifest_means(tmp_path: Path, compression: Compressed) -> None:
    other = layout.encode_block("000000", *drawn(1, 5))
    path, shard = forged(tmp_path, compression, compressed(other[512 : 512 + 7680], compression))
    with pytest.raises(CorruptShard, match=r"block 000000 at byte 0, unpacked, has crc32 \w+, expected"):
        unpack_shard(shard, compression, path, tmp_path / "out.tar")


def test_a_block_of_another_codec_or_size(stored: Stored, tmp_path: Path) -> None:
    path, shard, compression = stored
    other: Compression = "lz4" if compression == "zstd" else "zstd"
    with pytest.raises(CorruptShard, match=f"block 000000 at byte 0: not a block of 3 images in {other} frames"):
        unpack_shard(shard, other, path, tmp_path / "out.tar")
    wrong = replace(shard, blocks=tuple(replace(block, samples=block.samples + 1) for block in shard.blocks))
    with pytest.raises(CorruptShard, match=r"not a block of 4 images|cannot be unpacked: 15872 bytes, expected 19968"):
        unpack_shard(wrong, compression, path, tmp_path / "out.tar")
