"""Deduplication: of the images in all sources, blank ones and duplicates are dropped, and one of each image is kept.

- Blank: all pixels are equal. The image carries no label and is dropped.
- Identical pixels under one label, in one source or several: one image is kept, with the strictest of their official
  splits (test before train before none), so that an official test image of any source is never a training image. If
  the origins differ, the image of known origin is kept.
- Identical pixels under different labels: one label must be wrong, but which is unknown. All are dropped, even official
  test images.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shards.errors import InputError
from tools.ingest.originals import Origin, original_id
from tools.ingest.sources import Official

BLANK, IDENTICAL, CONFLICT = "blank", "identical", "conflict"
STRICTEST: tuple[Official, ...] = ("test", "train", "")


class Candidate(NamedTuple):
    """An image of a source. Candidates sort by class, then id."""

    code_point: int
    digest: bytes
    """Checksum of the pixels (sha256)."""
    source: str
    member: str
    row: int
    """Position among all images read."""
    blank: bool
    official: Official = ""
    origin: Origin = Origin.KNOWN

    @property
    def id(self) -> str:
        """Id of the original, 16 hexadecimal digits."""
        return f"{original_id(self.digest):016x}"


class Sorted(NamedTuple):
    """The candidates, sorted into kept and dropped."""

    kept: list[Candidate]
    dropped: list[tuple[str, Candidate]]
    """Candidates with the reason why they were dropped."""
    moved: int
    """Number of images outside official test sets with an identical image inside one."""


def sort_out(candidates: Iterable[Candidate]) -> Sorted:
    """Keep one candidate of each image that is not blank and has one label. Their order has no effect."""
    by_image: dict[bytes, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=_preference):
        by_image[candidate.digest].append(candidate)
    kept: list[Candidate] = []
    dropped: list[tuple[str, Candidate]] = []
    moved = 0
    for same in by_image.values():
        if same[0].blank:
            dropped += [(BLANK, candidate) for candidate in same]
        elif len({candidate.code_point for candidate in same}) > 1:
            dropped += [(CONFLICT, candidate) for candidate in same]
        else:
            official = min((candidate.official for candidate in same), key=STRICTEST.index)
            moved += sum(candidate.official != "test" for candidate in same) if official == "test" else 0
            kept.append(same[0]._replace(official=official))
            dropped += [(IDENTICAL, candidate) for candidate in same[1:]]
    _require_unique_ids(kept)
    return Sorted(kept=sorted(kept), dropped=sorted(dropped), moved=moved)


def _preference(candidate: Candidate) -> tuple[object, ...]:
    """Sort key of identical images, of which the first is kept."""
    return (candidate.origin.number, STRICTEST.index(candidate.official), *candidate)


def _require_unique_ids(kept: Sequence[Candidate]) -> None:
    """Two images with the same 64 bits of sha256 are most unlikely, but lineage depends on it, so check."""
    for number, count in Counter(candidate.id for candidate in kept).items():
        if count > 1:
            names = [f"{candidate.source}: {candidate.member}" for candidate in kept if candidate.id == number]
            raise InputError(f"{' and '.join(names)}: different images with the same id {number}; remove one")
