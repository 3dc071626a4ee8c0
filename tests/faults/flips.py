"""One bit of a shard turned over, in each member of each block and in what lies between and after them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards import Manifest, Shard
from shards.format import layout


def places(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Names of tars, and bytes in them."""
    for split in manifest.splits.values():
        for shard in split.shards:
            yield from ((shard.name, place) for place in _places(shard, packed=manifest.layout == "packed"))


@contextmanager
def flipped(path: Path, place: int) -> Iterator[None]:
    """The file with one bit of a byte turned over, another one from place to place."""
    _flip(path, place)
    try:
        yield
    finally:
        _flip(path, place)


def _places(shard: Shard, *, packed: bool) -> Iterator[int]:
    for block in shard.blocks:
        n = block.samples
        in_members = (layout.PIXELS_OFFSET, layout.labels_offset(n), layout.sources_data_offset(n)) if packed else ()
        headers = (0, layout.TAR_BLOCK, *(start - layout.NPY_HEADER for start in in_members))
        sevenths = (block.bytes * part // 7 for part in range(1, 7))
        yield from (block.offset + place for place in (*headers, *in_members, *sevenths, block.bytes - 1))
    yield from (shard.blocks[-1].offset + shard.blocks[-1].bytes, shard.bytes - 1)


def _flip(path: Path, place: int) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        (value,) = file.read(1)
        file.seek(place)
        file.write(bytes([value ^ 1 << place % 8]))
