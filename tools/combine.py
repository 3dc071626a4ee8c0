"""Raw archives or folders -> originals: every image checked, blank and identical ones found, in one order."""

import fnmatch
import hashlib
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import tyro

from kkanji.classes import class_map, label, parse_label
from shards import IMAGE_BYTES, IMAGE_SIZE, InputError, OutputFolder, write_file
from shards.manifest import CLASSES_NAME
from shards.writer import sync_file
from tools import originals, png
from tools.archive import Member
from tools.progress import count_images
from tools.sources import Source

NAME = "Kuzushiji-Kanji"
LICENCE = (
    "`KMNIST Dataset` (created by CODH), adapted from `Kuzushiji Dataset` (created by NIJL and others), "
    "doi:10.20676/00000341, CC BY-SA 4.0"
)
IGNORED = ("README*", "LICENSE*", "LICENCE*", ".DS_Store", "._*")
BLANK, IDENTICAL, CONFLICT = "blank", "identical", "conflict"
DROPPED_COLUMNS = ("reason", "label", "source", "member", "id")
SHOWN = 10  # entries named on the screen; dropped.csv names all


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

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return f"{originals.original_id(self.digest):016x}"


class Sorted(NamedTuple):
    """What becomes of the entries."""

    kept: list[Entry]
    dropped: list[tuple[str, Entry]]
    """With the reason."""


def combine(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    /,
    *,
    output: Path = Path("originals"),
    name: str = NAME,
    licence: str = LICENCE,
    overwrite: bool = False,
) -> None:
    """Combine raw images, any U+XXXX/<name>.png in folders or tar archives, into one checked set of originals.

    Blank images and all but one of identical images are dropped and listed in OUTPUT/dropped.csv; identical images
    under different labels are all dropped. Archives are read as they are, nothing is unpacked to disk.

    Example: python -m tools combine kkanji.tar --output originals

    Args:
        sources: folders or .tar, .tar.gz, .tgz archives in CODH's layout
        output: folder to make
        name: the data's name, for manifests and reports
        licence: the line to print with anything made from the data
        overwrite: replace OUTPUT if it exists
    """
    started = time.perf_counter()
    inputs = [Source(path=path) for path in sources]
    if not inputs:
        raise InputError("no SOURCE given; expected folders or archives, as in `python -m tools combine kkanji.tar`")
    with OutputFolder(output, overwrite=overwrite) as folder:
        spool = folder / "pixels.spool"
        with spool.open("wb") as file:
            entries = _read_all(inputs, file)
        found = sort_out(entries)
        _require_some(found, inputs)
        write_images(folder / originals.IMAGES_NAME, spool, [entry.row for entry in found.kept])
        spool.unlink()
        _write_facts(folder, inputs, found, {"name": name, "licence": licence})
    _report(found, output, time.perf_counter() - started)


def sort_out(entries: Sequence[Entry]) -> Sorted:
    """Keep one entry of each distinct image that is not blank and has one label; the order of entries has no effect."""
    by_image: dict[bytes, list[Entry]] = defaultdict(list)
    for entry in sorted(entries):
        by_image[entry.digest].append(entry)
    kept: list[Entry] = []
    dropped: list[tuple[str, Entry]] = []
    for same in by_image.values():
        if same[0].blank:
            dropped += [(BLANK, entry) for entry in same]
        elif len({entry.code_point for entry in same}) > 1:
            dropped += [(CONFLICT, entry) for entry in same]
        else:
            kept.append(same[0])
            dropped += [(IDENTICAL, entry) for entry in same[1:]]
    _require_unique_ids(kept)
    return Sorted(kept=sorted(kept), dropped=sorted(dropped))


def write_images(path: Path, spool: Path, rows: Sequence[int]) -> None:
    """Write `images.npy` from pixels spooled in the order of reading; memory is the page cache's and one chunk's."""
    pixels = np.memmap(spool, np.uint8, "r").reshape(-1, IMAGE_BYTES)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), IMAGE_SIZE, IMAGE_SIZE)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), originals.CHUNK):
            file.write(np.take(pixels, rows[start : start + originals.CHUNK], axis=0).tobytes())
        sync_file(file.fileno())


def _read_all(inputs: Sequence[Source], spool: BinaryIO) -> list[Entry]:
    entries: list[Entry] = []
    with count_images() as progress:
        for source in inputs:
            before = len(entries)
            for entry in _read_source(source, spool, before):
                entries.append(entry)
                progress.update()
            if len(entries) == before:
                raise InputError(f"{source.path}: no image in it; expected U+XXXX/<name>.png at any depth")
    return entries


def _read_source(source: Source, spool: BinaryIO, row: int) -> Iterator[Entry]:
    name = source.name
    for member in source.members():
        code_point = _code_point(member, source)
        if code_point is None:
            continue
        pixels = png.decode(member.data, f"{source.path}: {member.name}").tobytes()
        spool.write(pixels)
        digest, blank = hashlib.sha256(pixels).digest(), pixels == pixels[:1] * IMAGE_BYTES
        yield Entry(code_point=code_point, digest=digest, source=name, member=member.name, row=row, blank=blank)
        row += 1


def _code_point(member: Member, source: Source) -> int | None:
    """The class that a member's folder names; None for the files that people and systems leave beside the images."""
    *folders, file_name = member.name.split("/")
    if any(fnmatch.fnmatchcase(file_name, pattern) for pattern in IGNORED):
        return None
    where = f"{source.path}: {member.name}"
    if not folders or not folders[-1].startswith("U+") or not file_name.endswith(".png"):
        raise InputError(f"{where}: does not fit CODH's layout; expected U+XXXX/<name>.png: remove or rename it")
    return parse_label(folders[-1], where)


def _require_unique_ids(kept: Sequence[Entry]) -> None:
    """Two images with the same 64 bits of sha256 do not happen by chance; lineage must not rest on that."""
    for number, count in Counter(entry.id for entry in kept).items():
        if count > 1:
            names = [f"{entry.source}: {entry.member}" for entry in kept if entry.id == number]
            raise InputError(f"{' and '.join(names)}: different images with the same id {number}; leave one out")


def _require_some(found: Sorted, inputs: Sequence[Source]) -> None:
    if not found.kept:
        names = ", ".join(str(source.path) for source in inputs)
        raise InputError(f"{names}: all {len(found.dropped)} images are blank or in conflict; expected some to keep")


def _write_facts(folder: Path, inputs: Sequence[Source], found: Sorted, described: dict[str, str]) -> None:
    classes = class_map(entry.code_point for entry in found.kept)
    write_file(folder / CLASSES_NAME, classes.to_json())
    table = ((entry.id, label(entry.code_point), entry.source, entry.member) for entry in found.kept)
    table_sha256 = originals.write_table(folder / originals.TABLE_NAME, originals.TABLE_COLUMNS, table)
    dropped = ((why, label(entry.code_point), entry.source, entry.member, entry.id) for why, entry in found.dropped)
    originals.write_table(folder / originals.DROPPED_NAME, DROPPED_COLUMNS, dropped)
    facts = {
        **described,
        "counts": _counts(found),
        "classes_without_images": _vanished(found),
        "images_sha256": originals.file_sha256(folder / originals.IMAGES_NAME),
        "originals_sha256": table_sha256,
        "sources": [{"name": name, "sha256": sha256 or None} for name, sha256 in sorted(_identities(inputs))],
    }
    originals.write_facts(folder / originals.FACTS_NAME, originals.FORMAT, facts)


def _identities(inputs: Sequence[Source]) -> list[tuple[str, str]]:
    return [(source.name, source.sha256() or "") for source in inputs]


def _counts(found: Sorted) -> dict[str, int]:
    reasons = Counter(reason for reason, _ in found.dropped)
    return {
        "read": len(found.kept) + len(found.dropped),
        "kept": len(found.kept),
        **{reason: reasons[reason] for reason in (BLANK, IDENTICAL, CONFLICT)},
        "classes": len({entry.code_point for entry in found.kept}),
    }


def _vanished(found: Sorted) -> list[str]:
    """Classes none of whose images was kept."""
    lost = {entry.code_point for _, entry in found.dropped} - {entry.code_point for entry in found.kept}
    return [label(code_point) for code_point in sorted(lost)]


def _report(found: Sorted, output: Path, seconds: float) -> None:
    counts = _counts(found)
    for reason, entry in found.dropped[:SHOWN]:
        print(f"{reason}: {label(entry.code_point)} {entry.source}: {entry.member}")
    if len(found.dropped) > SHOWN:
        print(f"... and {len(found.dropped) - SHOWN} more in {output / originals.DROPPED_NAME}")
    vanished = _vanished(found)
    if vanished:
        warnings.warn(f"{len(vanished)} classes have no image left: {' '.join(vanished[:SHOWN])}", stacklevel=2)
    print(
        f"{output}: {counts['kept']:,} originals of {counts['classes']:,} classes from {counts['read']:,} images "
        f"({counts[BLANK]} blank, {counts[IDENTICAL]} identical, {counts[CONFLICT]} in conflict dropped); "
        f"{seconds:.1f} s, {counts['read'] / seconds:,.0f} images/s"
    )
