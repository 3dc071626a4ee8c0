"""Raw archives, folders or arrays -> originals: every image checked, blank and identical ones found, in one order."""

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tyro

from kkanji.classes import ClassMap, label, sorted_class_map
from shards import IMAGE_BYTES, IMAGE_SIZE, InputError, OutputFolder, write_file
from shards.format.manifest import CLASSES_NAME
from shards.output.files import sync_file
from tools.ingest import originals
from tools.ingest.codh_npz import npz_source, npz_sources
from tools.ingest.dedupe import BLANK, CONFLICT, IDENTICAL, Entry, Sorted, sort_out
from tools.ingest.legacy_arrays import LegacyArrays, has_arrays
from tools.ingest.originals import LICENCE
from tools.ingest.sources import ClassFolders, Source
from tools.progress import count_images

DROPPED_COLUMNS = ("reason", "label", "source", "member", "id", "official")
SHOWN = 10  # entries named on the screen; dropped.csv names all


def combine(
    sources: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    *,
    legacy: tuple[Path, ...] = (),
    output: Path = Path("originals"),
    name: str | None = None,
    licence: str = LICENCE,
    overwrite: bool = False,
) -> None:
    """Combine raw images into one checked set of originals, with the lineage of each.

    Sources are what CODH publishes, any of it: Kuzushiji-Kanji (U+XXXX/<name>.png in folders or tar archives) and the
    arrays of Kuzushiji-49 and Kuzushiji-MNIST, whose 28x28 pixels become 64x64 and whose official test sets stay test.
    Blank images and all but one of identical images are dropped and listed in OUTPUT/dropped.csv; identical images
    under different labels are all dropped. Nothing is unpacked to disk.

    Example: python -m tools combine data/kkanji/kkanji.tar data/k49 data/kmnist --output originals

    Args:
        sources: folders or .tar, .tar.gz, .tgz archives in CODH's layout; *-imgs.npz files, or folders with them
        legacy: what the legacy project wrote: class folders (U+XXXX or the character itself), or a folder with
            images.npy, labels.npy and index.json. Their lineage is unknown, which all that is made of them says
        output: folder to make
        name: the data's name, for manifests and reports; from the sources if not given
        licence: the line to print with anything made from the data
        overwrite: replace OUTPUT if `combine` made it
    """
    started = time.perf_counter()
    inputs = find_sources(sources, legacy)
    with OutputFolder(output, maker="combine", inputs=(*sources, *legacy), overwrite=overwrite) as folder:
        spool = folder / "pixels.spool"
        with spool.open("wb") as file:
            entries = _read_all(inputs, file)
        found = sort_out(entries)
        _require_some(found, inputs)
        write_images(folder / originals.IMAGES_NAME, spool, [entry.row for entry in found.kept])
        spool.unlink()
        classes = sorted_class_map(
            [entry.code_point for entry in entries] + [point for one in inputs for point in one.classes()]
        )
        title = name if name is not None else " + ".join(sorted({source.title for source in inputs}))
        _write_facts(folder, inputs, found, classes, {"name": title, "licence": licence})
    _report(found, classes, output, time.perf_counter() - started)


def find_sources(paths: Sequence[Path], legacy: Sequence[Path]) -> list[Source]:
    """What these paths hold. Raises InputError."""
    inputs: list[Source] = []
    for path in paths:
        inputs += _source(path)
    for path in legacy:
        kind = LegacyArrays if has_arrays(path) else ClassFolders
        inputs.append(kind(path=path, lineage="unknown"))
    if not inputs:
        raise InputError("no SOURCE given; expected folders or archives, as in `python -m tools combine kkanji.tar`")
    return inputs


def _source(path: Path) -> Sequence[Source]:
    if path.suffix == ".npz" and path.is_file():
        return [npz_source(path)]
    if has_arrays(path):
        raise InputError(f"{path}: arrays of unknown lineage ({originals.IMAGES_NAME}); give them by --legacy {path}")
    return npz_sources(path) or [ClassFolders(path=path)]


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
    for number, (member, code_point, pixels) in enumerate(source.images(), row):
        spool.write(pixels)
        yield Entry(
            code_point=code_point,
            digest=hashlib.sha256(pixels).digest(),
            source=name,
            member=member,
            row=number,
            blank=pixels == pixels[:1] * IMAGE_BYTES,
            official=source.official,
            lineage=source.lineage,
        )


def _require_some(found: Sorted, inputs: Sequence[Source]) -> None:
    if not found.kept:
        names = ", ".join(str(source.path) for source in inputs)
        raise InputError(f"{names}: all {len(found.dropped)} images are blank or in conflict; expected some to keep")


def _write_facts(
    folder: Path, inputs: Sequence[Source], found: Sorted, classes: ClassMap, described: dict[str, str]
) -> None:
    write_file(folder / CLASSES_NAME, classes.to_json())
    table_sha256 = originals.write_table(
        folder / originals.TABLE_NAME, originals.TABLE_COLUMNS, map(_table_row, found.kept)
    )
    dropped = (
        (why, label(entry.code_point), entry.source, entry.member, entry.id, entry.official)
        for why, entry in found.dropped
    )
    originals.write_table(folder / originals.DROPPED_NAME, DROPPED_COLUMNS, dropped)
    identities = sorted(identity for source in inputs for identity in source.identities())
    facts = {
        **described,
        "counts": _counts(found, classes),
        "official": _official_counts(found),
        "lineage": dict(Counter(sorted(entry.lineage for entry in found.kept))),
        "classes_without_images": _vanished(found, classes),
        "images_sha256": originals.file_sha256(folder / originals.IMAGES_NAME),
        "originals_sha256": table_sha256,
        "sources": [{"name": name, "sha256": sha256 or None} for name, sha256 in identities],
    }
    originals.write_facts(folder / originals.FACTS_NAME, originals.FORMAT, facts)


def _table_row(entry: Entry) -> originals.Row:
    return originals.Row(
        id=entry.id,
        label=label(entry.code_point),
        source=entry.source,
        member=entry.member,
        sha256=entry.digest.hex(),
        official=entry.official,
        lineage=entry.lineage,
    )


def _counts(found: Sorted, classes: ClassMap) -> dict[str, int]:
    reasons = Counter(reason for reason, _ in found.dropped)
    return {
        "read": len(found.kept) + len(found.dropped),
        "kept": len(found.kept),
        **{reason: reasons[reason] for reason in (BLANK, IDENTICAL, CONFLICT)},
        "classes": len(classes),
    }


def _official_counts(found: Sorted) -> dict[str, object]:
    """Images read and kept of the official splits, and how many of others are test because an identical image is."""
    read = Counter(entry.official for entry in [*found.kept, *(entry for _, entry in found.dropped)])
    kept = Counter(entry.official for entry in found.kept)
    parts = {part: {"read": read[part], "kept": kept[part]} for part in ("train", "test")}
    return {**parts, "twins_of_test": found.moved}


def _vanished(found: Sorted, classes: ClassMap) -> list[str]:
    """Classes none of whose images was kept."""
    lost = set(classes.code_points) - {entry.code_point for entry in found.kept}
    return [label(code_point) for code_point in sorted(lost)]


def _report(found: Sorted, classes: ClassMap, output: Path, seconds: float) -> None:
    counts = _counts(found, classes)
    for reason, entry in found.dropped[:SHOWN]:
        print(f"{reason}: {label(entry.code_point)} {entry.source}: {entry.member}")
    if len(found.dropped) > SHOWN:
        print(f"... and {len(found.dropped) - SHOWN} more in {output / originals.DROPPED_NAME}")
    vanished = _vanished(found, classes)
    if vanished:
        warnings.warn(f"{len(vanished)} classes have no image left: {' '.join(vanished[:SHOWN])}", stacklevel=2)
    print(
        f"{output}: {counts['kept']:,} originals of {counts['classes']:,} classes from {counts['read']:,} images "
        f"({counts[BLANK]} blank, {counts[IDENTICAL]} identical, {counts[CONFLICT]} in conflict dropped); "
        f"{seconds:.1f} s, {counts['read'] / seconds:,.0f} images/s"
    )
