"""The image layout: a PNG or JPEG file and its label for each sample, as in any WebDataset.

For each sample, a tar holds `KEY.png` (or `.jpg`, `.jpeg`) and `KEY.cls`, the label in digits. `NAME.samples.npy` has
the offset, size and label of each image, so that a reader needs neither tar headers nor `.cls` files; bad samples are
not in it. A block is a range of the tar with whole samples.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.array_reading import parse_array
from shards.errors import CorruptShard, InputError
from shards.format import layout, ustar
from shards.format.layout import TAR_BLOCK
from shards.format.manifest_reader import Readable
from shards.format.shard_table import Shard
from shards.format.tar_headers import MAX_MEMBER_BYTES, Member
from shards.format.ustar import MAX_MEMBERS, Archive
from shards.format.writer import StoredBlock, write_tar
from shards.output.files import write_file
from shards.regular_files import reading

ImageFormat = Literal["png", "jpg"]

EXTENSIONS = ("png", "jpg", "jpeg")
LABEL_EXTENSION = "cls"
TABLE_TYPE = np.dtype([("offset", "<u8"), ("bytes", "<u4"), ("label", "<i4"), ("source", "<u8")])
MAX_IMAGES = MAX_MEMBERS // 2
"""Most images in a tar."""
SHOWN = 6  # members of a bad sample that a message names
_LABEL = re.compile(rb"(\d{1,10})\s*")  # Windows ends a line by two characters


class EncodedImages(NamedTuple):
    """Several samples as image files."""

    files: Sequence[bytes]
    """PNG or JPEG files [n]."""
    labels: NDArray[np.integer]
    """Class numbers [n]."""
    sources: NDArray[np.uint64]
    """The original that each image was made from [n]."""


class ImageSample(NamedTuple):
    """Where a sample is in its tar."""

    image: Member
    """The image file."""
    label: int
    """Class number."""
    start: int
    """Where the first header of its members starts, in bytes from the start of the tar."""


def write_image_shard(path: Path, blocks: Iterable[EncodedImages], image_format: ImageFormat) -> Shard:
    """Write one tar of the image layout, its DALI index and its table; returns its description for the manifest."""
    sources: list[NDArray[np.uint64]] = []
    shard = write_tar(path, _stored_blocks(path, blocks, image_format, sources))
    table = image_table(read_samples(path, ustar.read_archive(path)))
    table["source"] = np.concatenate([np.empty(0, np.uint64), *sources])
    return write_table(path.parent, shard, table)


def write_table(folder: Path, shard: Shard, table: NDArray[np.void]) -> Shard:
    """Write a shard's table of samples; returns the shard with its checksum."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, table, version=(1, 0), allow_pickle=False)
    write_file(folder / shard.table_name, buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    return Shard(name=shard.name, bytes=shard.bytes, sha256=shard.sha256, blocks=shard.blocks, table_sha256=sha256)


def read_table(store: Readable, shard: Shard) -> NDArray[np.void]:
    """A shard's table of samples, of TABLE_TYPE, one row for each sample in the order of the tar.

    Raises: CorruptShard if its checksum is not the manifest's, or a row points outside the shard's blocks.
    """
    data, where = store.read(shard.table_name), f"{store.location}/{shard.table_name}"
    found = hashlib.sha256(data).hexdigest()
    if found != shard.table_sha256:
        raise CorruptShard(f"{where}: sha256 {found}, expected {shard.table_sha256}; copy or make the set again")
    try:
        table = parse_array(data)
    except ValueError as error:
        raise CorruptShard(f"{where}: {error}; make the set again") from error
    problem = _table_problem(table, shard)
    if problem:
        raise CorruptShard(f"{where}: {problem}; make the set again")
    return table


def read_samples(
    path: Path, archive: Archive, *, classes: int = layout.MAX_LABEL + 1, where: str = "", bad: list[str] | None = None
) -> list[ImageSample]:
    """The samples of a tar. where: its name in messages, if it is not its path.

    bad: gets, for each image that is no whole sample, why; None for a tar that must not have any.
    Raises: CorruptShard then, if an image has no label, or a label is not a whole number from 0 to `classes` - 1.
    """
    samples = []
    with reading(path) as file:
        for members in archive.samples():
            try:
                samples.append(_sample(where or str(path), members, file.fileno(), classes))
            except CorruptShard as error:
                if bad is None:
                    raise
                # Members of many images run together if their keys differ only after a dot.
                bad += [str(error)] * max(1, sum(_is_image(member) for member in members))
    return samples


def table_problem(path: Path, table: NDArray[np.void]) -> str | None:
    """The first contradiction between a tar and its table of samples, None if there is none.

    The tar may have more samples than the table, which leaves out bad ones.
    """
    archive = ustar.read_archive(path)
    found = image_table(read_samples(path, archive, bad=[]))
    rows = np.searchsorted(found["offset"], table["offset"]).clip(max=max(len(found) - 1, 0))
    columns = ["offset", "bytes", "label"]
    wrong = np.flatnonzero(found[columns][rows] != table[columns]) if len(found) else np.arange(len(table))
    if len(wrong):
        return f"row {wrong[0]} of its table is {table[wrong[0]]}, but the tar has no such sample"
    return None


def image_table(samples: Sequence[ImageSample]) -> NDArray[np.void]:
    """The table of these samples, with sources 0."""
    table = np.zeros(len(samples), TABLE_TYPE)
    table["offset"] = [sample.image.offset for sample in samples]
    table["bytes"] = [sample.image.size for sample in samples]
    table["label"] = [sample.label for sample in samples]
    return table


def _stored_blocks(
    path: Path, blocks: Iterable[EncodedImages], image_format: ImageFormat, sources: list[NDArray[np.uint64]]
) -> Iterator[StoredBlock]:
    """Each block as it goes into the tar. Keys bear the shard's name, so that they are unique in a set."""
    first = 0
    for block in blocks:
        _check_block(path, block, first)
        keys = (f"{path.stem}-{number:06d}" for number in range(first, first + len(block.files)))
        parts = zip(keys, block.files, block.labels.tolist(), strict=True)
        members = (_sample_members(key, file, label, image_format) for key, file, label in parts)
        sources.append(block.sources)
        first += len(block.files)
        yield StoredBlock(b"".join(members), len(block.files))


def _sample_members(key: str, file: bytes, label: int, image_format: ImageFormat) -> bytes:
    return _member(f"{key}.{image_format}", file) + _member(f"{key}.{LABEL_EXTENSION}", b"%d" % label)


def _member(name: str, data: bytes) -> bytes:
    return b"".join((layout.tar_header(name, len(data)), data, bytes(-len(data) % TAR_BLOCK)))


def _check_block(path: Path, block: EncodedImages, first: int) -> None:
    """Refuse what a reader would refuse."""
    files, labels, sources = block
    if not (len(files) == len(labels) == len(sources) > 0) or labels.dtype.kind not in "iu":
        found = f"{len(files)} images, {labels.dtype} {labels.shape} labels, {sources.dtype} {sources.shape} sources"
        raise InputError(f"{path}: a block of {found}; expected as many of each, and at least one")
    if labels.min() < 0 or labels.max() > layout.MAX_LABEL:
        raise InputError(f"{path}: labels {labels.min()}..{labels.max()}; expected numbers from 0 on, below 2**31")
    if not 0 < min(map(len, files)) <= max(map(len, files)) <= MAX_MEMBER_BYTES:
        raise InputError(f"{path}: an image file without content, or larger than {MAX_MEMBER_BYTES} bytes")
    if first + len(files) > MAX_IMAGES:
        raise InputError(f"{path}: more than {MAX_IMAGES} images; write several shards")


def _sample(tar: str, members: Sequence[Member], descriptor: int, classes: int) -> ImageSample:
    images = [member for member in members if _is_image(member)]
    labels = [member for member in members if member.extension.lower() == LABEL_EXTENSION]
    first = members[0]
    if len(images) != 1 or len(labels) != 1:
        found = " ".join(member.extension for member in members[:SHOWN])[:80] + " ..." * (len(members) > SHOWN)
        raise CorruptShard(
            f"{tar}: byte {first.start}: sample {first.key[-80:]} has members {found}; expected one image "
            f"({', '.join(EXTENSIONS)}) and its {LABEL_EXTENSION} side by side (tar --sort=name), and a key without "
            "a dot: rename scan.01.png to scan-01.png"
        )
    data = os.pread(descriptor, min(labels[0].size, 16), labels[0].offset)
    match = _LABEL.fullmatch(data)
    if match is None or labels[0].size > len(data) or int(match[1]) >= classes:
        where = f"{tar}: byte {labels[0].offset}: {labels[0].name}"
        raise CorruptShard(f"{where}: label {data!r}, expected a class number from 0 to {classes - 1} in digits")
    return ImageSample(images[0], int(match[1]), first.start)


def _is_image(member: Member) -> bool:
    return member.extension.lower() in EXTENSIONS


def _table_problem(table: NDArray[np.void], shard: Shard) -> str | None:
    if table.dtype != TABLE_TYPE or table.shape != (shard.samples,):
        return f"{table.dtype} {table.shape}, expected {TABLE_TYPE} of {shard.samples} samples"
    starts = table["offset"].astype(np.uint64)
    stops = starts + table["bytes"]
    counts = [block.samples for block in shard.blocks]
    first = np.repeat(np.array([block.offset for block in shard.blocks], np.uint64), counts)
    last = np.repeat(np.array([block.offset + block.bytes for block in shard.blocks], np.uint64), counts)
    outside = (starts < first) | (stops > last) | (stops < starts) | (table["bytes"] > MAX_MEMBER_BYTES)
    outside[1:] |= starts[1:] < stops[:-1]
    wrong = np.flatnonzero(outside | (table["label"] < 0))
    return f"row {wrong[0]} is {table[wrong[0]]}, outside its block or out of order" if len(wrong) else None
