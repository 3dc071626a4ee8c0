"""Writing shards and their indexes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.checksums import crc32
from shards.errors import InputError
from shards.format import layout, ustar
from shards.format.compression import compress_block
from shards.format.manifest import Compression
from shards.format.manifest_rules import MOST_COMPRESSED
from shards.format.samples import Samples
from shards.format.shard_table import Block, Shard
from shards.output.files import sync_file, write_file


class StoredBlock(NamedTuple):
    """A block as it is stored in a tar."""

    data: bytes
    """Whole members with their headers and padding."""
    samples: int
    """Images in the block."""
    plain_crc32: int | None = None
    """crc32 of the uncompressed block; None if it is stored uncompressed."""


def write_shard(path: Path, blocks: Iterable[Samples], *, compression: Compression = "none") -> Shard:
    """Write one packed tar and its DALI index; returns its description for the manifest. Blocks may differ in size."""
    return write_tar(path, (encode_block(number, block, path, compression) for number, block in enumerate(blocks)))


def encode_block(number: int, block: Samples, path: Path, compression: Compression) -> StoredBlock:
    """A packed block as it is stored in the tar at `path`. Raises InputError if its arrays do not fit the layout."""
    key = layout.block_key(number)
    plain = layout.encode_block(key, *check_samples(block, path))
    samples = len(block.labels)
    if compression == "none":
        return StoredBlock(plain, samples)
    if samples > MOST_COMPRESSED:
        raise InputError(f"{path}: a compressed block of {samples} images; expected {MOST_COMPRESSED} at most")
    return StoredBlock(compress_block(key, plain, samples, compression), samples, crc32(plain))


def write_tar(path: Path, blocks: Iterable[StoredBlock]) -> Shard:
    """Write one tar of these blocks, whatever their layout, and its DALI index."""
    digest, table, position = hashlib.sha256(), [], 0
    with path.open("wb") as file:
        for block in blocks:
            table.append(_block(position, block))
            position += len(block.data)
            digest.update(block.data)
            file.write(block.data)
        digest.update(layout.end_of_archive())
        file.write(layout.end_of_archive())
        sync_file(file.fileno())
    # The index comes from the tar as it is on the disk, not from the blocks, so it describes what readers will find.
    archive = ustar.read_archive(path, max_member_bytes=ustar.MAX_SIZE)
    write_file(path.with_suffix(".idx"), ustar.dali_index(archive))
    return Shard(name=path.name, bytes=archive.bytes, sha256=digest.hexdigest(), blocks=tuple(table))


def shard_name(split: str, number: int) -> str:
    """`train-00000.tar`"""
    return f"{split}-{number:05d}.tar"


def check_samples(samples: Samples, path: Path) -> Samples:
    """Raise InputError if arrays do not fit the packed layout; returns them."""
    images, labels, sources = samples
    shapes = ((labels.size, layout.IMAGE_SIZE, layout.IMAGE_SIZE), (labels.size,), (labels.size,))
    kinds = (images.dtype == np.uint8, labels.dtype.kind in "iu", sources.dtype == np.uint64)
    if (images.shape, labels.shape, sources.shape) != shapes or not all(kinds):
        found = ", ".join(f"{array.dtype} {array.shape}" for array in samples)
        raise InputError(f"{path}: found {found}; expected uint8 {shapes[0]}, a whole label and a uint64 source each")
    if labels.size == 0:
        raise InputError(f"{path}: a block without samples; expected at least one")
    if labels.min() < 0 or labels.max() > layout.MAX_LABEL:
        raise InputError(f"{path}: labels {labels.min()}..{labels.max()}; expected numbers from 0 on, below 2**31")
    return samples


def _block(offset: int, block: StoredBlock) -> Block:
    checksum = crc32(block.data)
    return Block(
        offset=offset, bytes=len(block.data), samples=block.samples, crc32=checksum, plain_crc32=block.plain_crc32
    )
