"""What becomes of images found in several sources: blank ones and repeats go, one of each image stays.

- Blank: all pixels alike. It carries no label and is dropped.
- Identical pixels under one label, in one source or in several: one stays, with the strictest of their official splits
  (test before train before none), so that an image which is an official test image anywhere is a test image, and never
  a training image too. Where sources differ in lineage, the best known stays.
- Identical pixels under different labels: one label must be wrong and nothing says which; all are dropped, official
  test images too.
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
    """An image as it was found. Entries sort by class, then id."""

    code_point: int
    digest: bytes
    """sha256 of the pixels."""
    source: str
    member: str
    row: int
    """Its place among the images read."""
    blank: bool
    official: Official = ""
    lineage: Lineage = "known"

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return f"{original_id(self.digest):016x}"


class Sorted(NamedTuple):
    """What becomes of the entries."""

    kept: list[Entry]
    dropped: list[tuple[str, Entry]]
    """With the reason."""
    moved: int
    """Images with an identical one in an official test set, outside of which they were found too."""


def sort_out(entries: Iterable[Entry]) -> Sorted:
    """Keep one entry of each distinct image that is not blank and has one label; the order of entries has no effect."""
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
    """Which of identical images stays: the first."""
    return (LINEAGES.index(entry.lineage), STRICTEST.index(entry.official), *entry)


def _require_unique_ids(kept: Sequence[Entry]) -> None:
    """Two images with the same 64 bits of sha256 do not happen by chance; lineage must not rest on that."""
    for number, count in Counter(entry.id for entry in kept).items():
        if count > 1:
            names = [f"{entry.source}: {entry.member}" for entry in kept if entry.id == number]
            raise InputError(f"{' and '.join(names)}: different images with the same id {number}; leave one out")
