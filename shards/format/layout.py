"""The packed layout: how a block of images becomes three tar members, byte for byte.

A block holds n images as `KEY.images.npy` uint8 [n, 64, 64], `KEY.labels.npy` int32 [n] and `KEY.sources.npy`
uint64 [n]; a shard is a USTAR archive of blocks. Two npy headers are padded with spaces (the npy format allows any
length) so that every block starts, and its pixels start, at a multiple of 4,096 bytes of the file. One image is 4,096
bytes too, hence a shard seen as uint8 [rows, 4096] has one image per row: the reader gathers with a single `np.take`.
"""

import math
import tarfile
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 64
IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE
ALIGNMENT = IMAGE_BYTES
TAR_BLOCK = 512
NPY_HEADER = 128  # what numpy.save writes for arrays of this kind
PIXELS_OFFSET = ALIGNMENT  # from a block's start: tar header and padded npy header
PIXEL_TYPE = np.dtype("u1")
LABEL_TYPE = np.dtype("<i4")
MAX_LABEL = 2**31 - 1
SOURCE_TYPE = np.dtype("<u8")
BLOCK_SIZES = (125, 250, 625, 1250)  # divisors of 6,250, one rank's part of a global batch of 50,000 on 8 GPUs

Count = TypeVar("Count", int, NDArray[np.int64])
"""A number, or one for each of several blocks."""


def block_bytes(samples: Count) -> Count:
    """Bytes of a block of this many images, a multiple of 4,096."""
    return sources_offset(samples) + _sources_room(samples)


def labels_offset(samples: Count) -> Count:
    """Where the labels' data starts, in bytes from the start of the block."""
    return PIXELS_OFFSET + samples * IMAGE_BYTES + TAR_BLOCK + NPY_HEADER


def sources_offset(samples: Count) -> Count:
    """Where the sources' tar header starts, in bytes from the start of the block."""
    labels_end = labels_offset(samples) + samples * LABEL_TYPE.itemsize
    return round_up(labels_end, TAR_BLOCK)


def sources_data_offset(samples: Count) -> Count:
    """Where the sources' data starts, in bytes from the start of the block."""
    return block_bytes(samples) - round_up(samples * SOURCE_TYPE.itemsize, TAR_BLOCK)


def encode_block(
    key: str, images: NDArray[np.uint8], labels: NDArray[np.integer], sources: NDArray[np.uint64]
) -> bytes:
    """The bytes of one block: images [n, 64, 64], labels [n], sources [n]."""
    pixels = _member(images_head(key, len(images)), np.ascontiguousarray(images, PIXEL_TYPE))
    return pixels + encode_columns(key, labels, sources)


def encode_columns(key: str, labels: NDArray[np.integer], sources: NDArray[np.uint64]) -> bytes:
    """The bytes of one block after its pixels: labels [n], sources [n]."""
    count = len(labels)
    sources_header = sources_data_offset(count) - sources_offset(count) - TAR_BLOCK
    head = _head(f"{key}.sources.npy", SOURCE_TYPE, (count,), sources_header)
    return _member(labels_head(key, count), labels.astype(LABEL_TYPE)) + _member(head, sources.astype(SOURCE_TYPE))


def tar_header(name: str, size: int) -> bytes:
    """A USTAR header without time, user or machine, so that the same input always gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT)


def end_of_archive() -> bytes:
    """The zero blocks that close a tar: a whole page, so that tars mapped one after another stay aligned."""
    return bytes(ALIGNMENT)


def block_key(number: int) -> str:
    """The name that a block's members share."""
    return f"{number:06d}"


def round_up(size: Count, multiple: int) -> Count:
    """The smallest multiple that is not below size."""
    return -(-size // multiple) * multiple


def _sources_room(samples: Count) -> Count:
    """Bytes from the sources' tar header to the end of the block, which lies on a page."""
    least = TAR_BLOCK + round_up(NPY_HEADER, TAR_BLOCK) + round_up(samples * SOURCE_TYPE.itemsize, TAR_BLOCK)
    start = sources_offset(samples)
    return round_up(start + least, ALIGNMENT) - start


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], length: int = NPY_HEADER) -> bytes:
    """An npy 1.0 header of exactly this length (numpy.lib.format: magic, length, a dict, spaces, a line feed)."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    body = text.encode("latin1").ljust(length - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + body


@lru_cache(maxsize=1024)
def labels_head(key: str, samples: int) -> bytes:
    """What comes before the labels' data in any block of this many images: tar header and npy header."""
    return _head(f"{key}.labels.npy", LABEL_TYPE, (samples,), NPY_HEADER)


@lru_cache(maxsize=64)
def images_head(key: str, samples: int) -> bytes:
    """What comes before the pixels in a plain block of this many images: tar header and npy header."""
    return _head(f"{key}.images.npy", PIXEL_TYPE, (samples, IMAGE_SIZE, IMAGE_SIZE), PIXELS_OFFSET - TAR_BLOCK)


def _head(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], npy_header_bytes: int) -> bytes:
    size = npy_header_bytes + dtype.itemsize * math.prod(shape)
    return tar_header(name, size) + npy_header(dtype, shape, npy_header_bytes)


def _member(head: bytes, array: NDArray[np.generic]) -> bytes:
    """An array as a tar member: tar header, npy header, data, and padding to the next tar block."""
    return head + array.tobytes() + bytes(-(len(head) + array.nbytes) % TAR_BLOCK)
