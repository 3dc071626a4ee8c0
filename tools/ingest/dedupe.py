"""Deduplication: of the images in all sources, blank ones and duplicates are dropped, and one of each image is kept.

- Blank: all pixels are equal. The image carries no label and is dropped.
- Identical pixels under one label, in one source or several: one image is kept, with the strictest of their official
  splits (test before train before none), so that an official test image of any source is never a training image. If
  the lineages differ, the image of known lineage is kept.
- Identical pixels under different labels: one label must be wrong, but which is unknown. All are dropped, even official
  test images.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shards.errors import InputError
from tools.ingest.originals import LINEAGES, Lineage, original_id
from tools.ingest.sources import Official

BLANK, IDENTICAL, CONFLICT = "blank", "identical", "conflict"
STRICTEST: tuple[Official, ...] = ("test", "train", "")


class Entry(NamedTuple):
    """An image of a source. Entries sort by class, then id."""

    code_point: int
    digest: bytes
    """Checksum of the pixels (sha256)."""
    source: str
    member: str
    row: int
    """Position among all images read."""
    blank: bool
    official: Official = ""
    lineage: Lineage = "known"

    @property
    def id(self) -> str:
        """Id of the original, 16 hexadecimal digits."""
        return f"{original_id(self.digest):016x}"


class Sorted(NamedTuple):
    """The entries, sorted into kept and dropped."""

    kept: list[Entry]
    dropped: list[tuple[str, Entry]]
    """Entries with the reason why they were dropped."""
    moved: int
    """Number of images outside official test sets with an identical image inside one."""


def sort_out(entries: Iterable[Entry]) -> Sorted:
    """Keep one entry of each image that is not blank and has one label. The order of the entries has no effect."""
    by_image: dict[bytes, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=_preference):
        by_image[entry.digest].append(entry)
    kept: list[Entry] = []
    dropped: list[tuple[str, Entry]] = []
    moved = 0
    for same in by_image.values():
        if same[0].blank:
            dropped += [(BLANK, entry) for entry in same]
        elif len({entry.code_point for entry in same}) > 1:
            dropped += [(CONFLICT, entry) for entry in same]
        else:
            official = min((entry.official for entry in same), key=STRICTEST.index)
            moved += sum(entry.official != "test" for entry in same) if official == "test" else 0
            kept.append(same[0]._replace(official=official))
            dropped += [(IDENTICAL, entry) for entry in same[1:]]
    _require_unique_ids(kept)
    return Sorted(kept=sorted(kept), dropped=sorted(dropped), moved=moved)


def _preference(entry: Entry) -> tuple[object, ...]:
    """Sort key of identical images, of which the first is kept."""
    return (LINEAGES.index(entry.lineage), STRICTEST.index(entry.official), *entry)


def _require_unique_ids(kept: Sequence[Entry]) -> None:
    """Two images with the same 64 bits of sha256 are most unlikely, but lineage depends on it, so check."""
    for number, count in Counter(entry.id for entry in kept).items():
        if count > 1:
            names = [f"{entry.source}: {entry.member}" for entry in kept if entry.id == number]
            raise InputError(f"{' and '.join(names)}: different images with the same id {number}; remove one")
