"""The packed layout: how a block of images becomes three tar members, byte for byte.

A block holds n images as `KEY.images.npy` uint8 [n, 64, 64], `KEY.labels.npy` int32 [n] and `KEY.sources.npy`
uint64 [n]; a shard is a USTAR archive of blocks. Two npy headers are padded with spaces (the npy format allows any
length) so that every block starts, and its pixels start, at a multiple of 4,096 bytes of the file. One image is 4,096
bytes too, hence a shard seen as uint8 [rows, 4096] has one image per row: the reader gathers with a single `np.take`.
"""

import tarfile

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 64
IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE
ALIGNMENT = IMAGE_BYTES
TAR_BLOCK = 512
NPY_HEADER = 128  # what numpy.save writes for arrays of this kind
PIXELS_OFFSET = ALIGNMENT  # from a block's start: tar header and padded npy header
LABEL_TYPE = np.dtype("<i4")
MAX_LABEL = 2**31 - 1
SOURCE_TYPE = np.dtype("<u8")
BLOCK_SIZES = (125, 250, 625, 1250)  # divisors of 6,250, one rank's part of a global batch of 50,000 on 8 GPUs


def block_bytes(samples: int) -> int:
    """Bytes of a block of this many images, a multiple of 4,096."""
    return sources_offset(samples) + _sources_room(samples)


def labels_offset(samples: int) -> int:
    """Where the labels' data starts, in bytes from the start of the block."""
    return PIXELS_OFFSET + samples * IMAGE_BYTES + TAR_BLOCK + NPY_HEADER


def sources_offset(samples: int) -> int:
    """Where the sources' tar header starts, in bytes from the start of the block."""
    labels_end = labels_offset(samples) + samples * LABEL_TYPE.itemsize
    return round_up(labels_end, TAR_BLOCK)


def sources_data_offset(samples: int) -> int:
    """Where the sources' data starts, in bytes from the start of the block."""
    return block_bytes(samples) - round_up(samples * SOURCE_TYPE.itemsize, TAR_BLOCK)


def encode_block(
    key: str, images: NDArray[np.uint8], labels: NDArray[np.integer], sources: NDArray[np.uint64]
) -> bytes:
    """The bytes of one block: images [n, 64, 64], labels [n], sources [n]."""
    count = len(images)
    sources_header = sources_data_offset(count) - sources_offset(count) - TAR_BLOCK
    members = (
        _member(f"{key}.images.npy", np.ascontiguousarray(images, np.uint8), PIXELS_OFFSET - TAR_BLOCK),
        _member(f"{key}.labels.npy", labels.astype(LABEL_TYPE), NPY_HEADER),
        _member(f"{key}.sources.npy", sources.astype(SOURCE_TYPE), sources_header),
    )
    return b"".join(members)


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


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below size."""
    return -(-size // multiple) * multiple


def _sources_room(samples: int) -> int:
    """Bytes from the sources' tar header to the end of the block, which lies on a page."""
    least = TAR_BLOCK + round_up(NPY_HEADER, TAR_BLOCK) + round_up(samples * SOURCE_TYPE.itemsize, TAR_BLOCK)
    start = sources_offset(samples)
    return round_up(start + least, ALIGNMENT) - start


def _member(name: str, array: NDArray[np.generic], npy_header_bytes: int) -> bytes:
    """An array as a tar member: tar header, npy header, data, and padding to the next tar block."""
    size = npy_header_bytes + array.nbytes
    headers = tar_header(name, size) + _npy_header(array, npy_header_bytes)
    return headers + array.tobytes() + bytes(-size % TAR_BLOCK)


def _npy_header(array: NDArray[np.generic], length: int) -> bytes:
    """An npy 1.0 header of exactly this length (numpy.lib.format: magic, length, a dict, spaces, a line feed)."""
    text = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {array.shape!r}, }}"
    body = text.encode("latin1").ljust(length - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + body
