"""Indexing of one third-party tar of images: every byte is read once, and every image decoded once."""

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kkanji.data.codec import decode
from kkanji.threads import Stopped
from shards import Block, CorruptShard, InputError, MissingShard, Shard, write_file
from shards.checksums import crc32
from shards.format import ustar
from shards.format.image_layout import ImageSample, image_table, read_samples, write_table
from shards.store.store import Store
from tools.ingest.originals import original_id

BLOCK_BYTES = 4 << 20  # of a tar that share a checksum; a block ends with a sample


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedTar:
    """The result for one tar."""

    shard: Shard
    """The tar, for the manifest."""
    labels: NDArray[np.int32]
    """Class number of each image, [n]."""
    sources: NDArray[np.uint64]
    """First 8 bytes of the sha256 of each image's pixels, the id in `kkanji combine`, [n]."""
    bad: tuple[str, ...]
    """Why each bad image was skipped."""


def index_tar(store: Store, classes: int, folder: Path, stop: threading.Event, name: str) -> IndexedTar:
    """Read one tar, and write its table and DALI index into the folder. stop: an event, set when the run fails.

    Raises CorruptShard for a tar that breaks the format, MissingShard, and StorageError.
    """
    if store.folder is not None:
        return _index_tar(name, store.folder / name, store.url(name), classes, folder, stop)
    size, path = store.size(name), folder / f".{name}"
    if size is None:
        raise MissingShard(f"{store.url(name)}: no such tar")
    try:
        store.download(name, size, path)
        return _index_tar(name, path, store.url(name), classes, folder, stop)
    finally:
        path.unlink(missing_ok=True)


def _index_tar(name: str, path: Path, where: str, classes: int, folder: Path, stop: threading.Event) -> IndexedTar:
    if not path.is_file():
        raise MissingShard(f"{where}: no such tar")
    archive = ustar.read_archive(path, where=where)
    reader = _TarReader(where)
    samples = read_samples(path, archive, classes=classes, where=where, bad=reader.bad)
    with path.open("rb") as file:
        for start, end, inside in _spans(samples, archive.end):
            if stop.is_set():
                raise Stopped
            reader.read(os.pread(file.fileno(), end - start, start), start, inside)
        rest = os.pread(file.fileno(), archive.bytes - archive.end, archive.end)
    shard = reader.finish(name, archive, rest)
    table = image_table(reader.good)
    table["source"] = reader.sources
    write_file(folder / shard.index_name, ustar.dali_index(archive))
    return IndexedTar(
        shard=write_table(folder, shard, table),
        labels=table["label"].astype(np.int32),
        sources=table["source"].astype(np.uint64),
        bad=tuple(reader.bad),
    )


def _spans(samples: Sequence[ImageSample], end: int) -> Iterator[tuple[int, int, Sequence[ImageSample]]]:
    """Spans of the tar that hold whole samples: start, stop, samples."""
    first, start = 0, 0
    for number in range(1, len(samples) + 1):
        stop = samples[number].start if number < len(samples) else end
        if stop - start >= BLOCK_BYTES or stop == end:
            yield start, stop, samples[first:number]
            first, start = number, stop


class _TarReader:
    """Checksums and samples, collected as the bytes of a tar pass."""

    def __init__(self, where: str) -> None:
        self.good: list[ImageSample] = []
        self.sources: list[int] = []
        self.bad: list[str] = []
        self._where = where
        self._digest = hashlib.sha256()
        self._blocks: list[Block] = []

    def read(self, data: bytes, start: int, samples: Sequence[ImageSample]) -> None:
        """Take in a span of the tar."""
        before = len(self.good)
        for sample in samples:
            self._decode(memoryview(data)[sample.image.offset - start :][: sample.image.size], sample)
        self._digest.update(data)
        self._add_block(data, len(self.good) - before)

    def finish(self, name: str, archive: ustar.Archive, rest: bytes) -> Shard:
        """The shard. rest: the zeros that end the tar."""
        self._digest.update(rest)
        if not self.good:
            raise CorruptShard(f"{self.bad[0]}: no usable image" if self.bad else f"{self._where}: it is empty")
        return Shard(name=name, bytes=archive.bytes, sha256=self._digest.hexdigest(), blocks=tuple(self._blocks))

    def _decode(self, data: memoryview, sample: ImageSample) -> None:
        try:
            pixels = decode(bytes(data))
        except InputError as error:
            self.bad.append(f"{self._where}: byte {sample.image.offset}: {sample.image.name}: {error}")
            return
        self.good.append(sample)
        self.sources.append(original_id(hashlib.sha256(pixels.tobytes()).digest()))

    def _add_block(self, data: bytes, good: int) -> None:
        """Every block has a good sample: a span without one joins the block before it, or else the next."""
        last = self._blocks[-1] if self._blocks else None
        if last is None or (good and last.samples):
            start = last.offset + last.bytes if last else 0
            self._blocks.append(Block(offset=start, bytes=len(data), samples=good, crc32=crc32(data)))
            return
        size, checksum = last.bytes + len(data), crc32(data, last.crc32)
        self._blocks[-1] = replace(last, bytes=size, samples=last.samples + good, crc32=checksum)
