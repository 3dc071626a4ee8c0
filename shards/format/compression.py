"""Compressed packed shards: each block's images are one zstd or LZ4 frame, `KEY.images.npy.zst` or `.lz4`.

Only the images are compressed. The labels' and sources' members are those of a plain block, byte for byte, and the
frame holds the images' npy file, so unpacking a shard gives the very file that an uncompressed `write_shard` would
have written. Frames carry no checksums or sizes of their own: the manifest has the crc32 of every block, stored and
plain, and its size. A size stated in a frame is ignored: unpacking stops at the expected size.

On the real originals (113,771 images of 64x64, blocks of 1,250): zstd at level 9 takes 1,271 bytes an image and packs
7,000 images/s a core; LZ4 at level 6 takes 1,417 bytes and packs 12,000. Higher levels gain 3 % and are
ten times slower.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import zstandard

from shards.checksums import crc32, next_crc32
from shards.errors import CorruptShard
from shards.format import layout
from shards.format.layout import IMAGE_BYTES, PIXELS_OFFSET, TAR_BLOCK
from shards.format.manifest import Compression
from shards.format.shard_table import Block, Shard
from shards.regular_files import reading

SUFFIXES = {"zstd": "zst", "lz4": "lz4"}
UNPACK_THREADS = 4
_ZSTD_LEVEL, _LZ4_LEVEL = 9, 6
_ZSTD_WINDOW = 1 << 23  # bytes a frame may make the decoder keep; level 9 asks for 4 MiB at most
_CHUNK = 1 << 20


def compress_block(key: str, plain: bytes, samples: int, compression: Compression) -> bytes:
    """The stored form of a plain block of this many images. The same library version gives the same bytes."""
    end = _pixels_end(samples)
    frame = _compress(memoryview(plain)[TAR_BLOCK:end], compression)
    header = layout.tar_header(_images_name(key, compression), len(frame))
    padding = bytes(-len(frame) % TAR_BLOCK)
    return b"".join((header, frame, padding, plain[end:]))


def unpack_shard(
    shard: Shard, compression: Compression, source: Path, target: Path, *, threads: int = UNPACK_THREADS
) -> None:
    """Write the plain packed form of a compressed shard into a new file. Memory: a few blocks for each thread.

    Checks the crc32 of every block before and after unpacking. Raises: CorruptShard; OSError from the disk.
    """
    if source.stat().st_size != shard.bytes:
        raise CorruptShard(f"{source}: {source.stat().st_size} bytes, expected {shard.bytes}; fetch or pack it again")
    plain = shard.plain
    with reading(source) as stored, target.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        os.truncate(file.fileno(), shard.plain_bytes)  # which also makes the zeros that end a tar

        def unpack(number: int) -> None:
            block = shard.blocks[number]
            where = f"{source}: block {layout.block_key(number)} at byte {block.offset}"
            data = os.pread(stored.fileno(), block.bytes, block.offset)
            _expect(crc32(data), block.crc32, where)
            pieces = _plain_pieces(number, memoryview(data), block.samples, compression, where)
            _expect(_write(file.fileno(), plain[number].offset, pieces), block.plain_crc32, f"{where}, unpacked,")

        # Not kkanji's map_in_order, since shards imports nothing of kkanji. `list` raises the first error of a block.
        # One block is unpacked here: to start a thread takes longer than to unpack 125 images.
        list((pool.map if len(shard.blocks) > 1 else map)(unpack, range(len(shard.blocks))))


def check_stored(shard: Shard, path: Path) -> str | None:
    """What is wrong with a file of this shard as stored: its size, a crc32, the zeros at the end. None if nothing."""
    return _check(path, shard.bytes, shard.blocks)


def check_plain(shard: Shard, path: Path) -> str | None:
    """What is wrong with a file of this shard after unpacking (as stored if nothing is compressed). None if nothing."""
    return _check(path, shard.plain_bytes, shard.plain)


def _plain_pieces(
    number: int, data: memoryview, samples: int, compression: Compression, where: str
) -> Iterator[bytes | memoryview]:
    """The plain form of a stored block, piece by piece; each piece is valid until the next one is taken."""
    key = layout.block_key(number)
    tail = len(data) - (layout.block_bytes(samples) - _pixels_end(samples))  # labels and sources, stored as they are
    # A damaged size is read as -1, so that the comparison below fails with a message and not int().
    size = int(bytes(data[124:135]), 8) if bytes(data[124:135]).isdigit() else -1
    header = layout.tar_header(_images_name(key, compression), max(size, 0))
    if data[:TAR_BLOCK] != header or layout.round_up(TAR_BLOCK + size, TAR_BLOCK) != tail:
        raise CorruptShard(f"{where}: not a block of {samples} images in {compression} frames; pack the set again")
    expected = _pixels_end(samples) - TAR_BLOCK
    yield layout.tar_header(f"{key}.images.npy", expected)
    try:
        yield from _exactly(expected, _DECOMPRESS[compression](data[TAR_BLOCK : TAR_BLOCK + size]))
    except (ValueError, RuntimeError, zstandard.ZstdError) as error:
        raise CorruptShard(f"{where}: its images cannot be unpacked: {error}; fetch or pack it again") from error
    yield data[tail:]


def unpack_images(frame: bytes, samples: int, compression: str) -> bytes:
    """The images' npy file of a block of this many images. Raises ValueError or RuntimeError if it is damaged."""
    expected = _pixels_end(samples) - TAR_BLOCK
    try:
        return b"".join(map(bytes, _exactly(expected, _DECOMPRESS[compression](memoryview(frame)))))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _exactly(expected: int, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """The pieces. Raises ValueError if together they are longer or shorter than expected."""
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > expected:
            raise ValueError(f"more than the expected {expected} bytes")
        yield piece
    if total < expected:
        raise ValueError(f"{total} bytes, expected {expected}")


def _unpack_zstd(frame: memoryview) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_CHUNK))
    with zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(frame) as reader:
        while count := reader.readinto(buffer):
            yield buffer[:count]


def _unpack_lz4(frame: memoryview) -> Iterator[memoryview]:
    context, position, ended = lz4.frame.create_decompression_context(), 0, False
    while not ended:
        piece, count, ended = lz4.frame.decompress_chunk(context, frame[position:], max_length=_CHUNK)
        if not piece and not count:
            raise ValueError("the frame has no end")
        position += count
        yield memoryview(piece)


_DECOMPRESS: dict[str, Callable[[memoryview], Iterator[memoryview]]] = {"zstd": _unpack_zstd, "lz4": _unpack_lz4}


def _compress(data: memoryview, compression: Compression) -> bytes:
    if compression == "zstd":
        compressor = zstandard.ZstdCompressor(_ZSTD_LEVEL, write_content_size=False, write_checksum=False)
        return compressor.compress(data)
    size = lz4.frame.BLOCKSIZE_MAX4MB
    frame: bytes = lz4.frame.compress(data, compression_level=_LZ4_LEVEL, block_size=size, store_size=False)
    return frame


def _write(descriptor: int, offset: int, pieces: Iterable[bytes | memoryview]) -> int:
    """Write pieces one after another; returns their crc32."""
    checksum = 0
    for piece in pieces:
        checksum = crc32(piece, checksum)
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[written:], offset + written
    return checksum


def _check(path: Path, size: int, blocks: Sequence[Block]) -> str | None:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes, expected {size}"
        with reading(path) as file:
            return damage(file, blocks)
    except OSError as error:
        return str(error.strerror)


def damage(file: BinaryIO, blocks: Sequence[Block]) -> str | None:
    """The first block of a shard whose crc32 differs, or data after the last one. None if undamaged."""
    for number, block in enumerate(blocks):
        found = next_crc32(file, block.bytes)
        if found != block.crc32:
            where = f"block {layout.block_key(number)} at byte {block.offset}"
            return f"{where}: crc32 {found:08x}, expected {block.crc32:08x}"
    end = file.tell()
    while data := file.read(_CHUNK):
        if any(data):
            return f"data in the end of the archive, from byte {end} on; expected zeros"
    return None


def _expect(found: int, expected: int | None, where: str) -> None:
    if found != expected:
        raise CorruptShard(f"{where} has crc32 {found:08x}, expected {expected or 0:08x}; fetch or pack it again")


def _images_name(key: str, compression: Compression) -> str:
    return f"{key}.images.npy.{SUFFIXES[compression]}"


def _pixels_end(samples: int) -> int:
    """Where the images' member ends, in bytes from the start of a plain block. It needs no padding."""
    return PIXELS_OFFSET + samples * IMAGE_BYTES
