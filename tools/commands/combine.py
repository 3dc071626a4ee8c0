"""Raw archives, folders or arrays -> originals: every image checked, blank and identical ones dropped, in one order."""

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tyro

from kkanji.classes import ClassMap, label
from kkanji.wording import counted
from shards import IMAGE_BYTES, IMAGE_SIZE, InputError, OutputFolder
from shards.errors import printable
from tools.build.budget import Budget
from tools.build.division import check_fractions, divide_by_fractions
from tools.ingest.class_names import ClassNames, read_class_names
from tools.ingest.codh_npz import npz_source, npz_sources
from tools.ingest.dedupe import BLANK, CONFLICT, IDENTICAL, Candidate, Sorted, sort_out
from tools.ingest.idx import NAME as IDX_NAME
from tools.ingest.idx import idx_source, idx_sources
from tools.ingest.legacy_arrays import LegacyArrays, has_arrays
from tools.ingest.originals import (
    DROPPED_COLUMNS,
    DROPPED_NAME,
    IMAGES_NAME,
    Origin,
    Row,
    read_originals,
    write_originals,
)
from tools.ingest.prepare import CHANGES
from tools.ingest.sources import UNKNOWN_LICENCE, ClassFolders, Found, Skipped, Source
from tools.ingest.tables import csv_text
from tools.ingest.webdataset import WebDataset, is_webdataset
from tools.progress import count_images

SPOOL_NAME = "pixels.spool"
LIGHT = 2 * IMAGE_SIZE * 160  # the sum of an image's first and last row from which its paper counts as light
UNUSABLE = "unusable"
SHOWN = 10  # dropped images named on the screen; dropped.csv lists all


def combine(
    sources: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    *,
    legacy: tuple[Path, ...] = (),
    output: Path = Path("originals"),
    classes: Path | None = None,
    as_is: bool = False,
    max_bad: str = "0",
    val: float | None = None,
    name: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Combine raw images into one checked set of originals, with the lineage of each.

    Sources are your own images (CLASS/<name>.png, .jpg, .tif ..., any size and colour, in folders or tar archives, or
    WebDataset tars) and CODH's data sets: Kuzushiji-Kanji, and the arrays of Kuzushiji-49 and Kuzushiji-MNIST, whose
    28x28 pixels become 64x64 and whose official test sets stay test. Your own images are prepared as `kkanji predict`
    prepares them: upright, gray, white ink on black, 64x64. Blank images and duplicates are dropped and listed in
    OUTPUT/dropped.csv; identical images under different labels are all dropped. Nothing is unpacked to disk.

    Example: kkanji combine data/kkanji/kkanji.tar data/k49 data/kmnist --output data/originals

    Args:
        sources: Folders or .tar, .tar.gz, .tgz archives of folders by class, each named by a code point (U+4E00), a
            character, or a name that --classes explains; WebDataset tars (KEY.png and KEY.cls); CODH's *-imgs.npz or
            *-ubyte files, or folders with them.
        legacy: Outputs of the legacy project: class folders (U+XXXX or the character itself), or a folder with
            images.npy, labels.npy and index.json. Their lineage is unknown, and everything made from them records that.
        output: Folder for the originals.
        classes: What names or numbers of classes mean: a CSV file of name,class (a code point, a character, or free
            text for a class that is no single character), CODH's class map, or an index.json.
        as_is: Refuse images that are not PNG files of 64x64 gray pixels, white ink on black, instead of preparing them.
        max_bad: Images that may be unusable, as a number or a percentage (1%). All are listed in OUTPUT/dropped.csv.
        val: Also divide the originals, with this fraction of each class for validation, as `kkanji split --val` does.
        name: Name of the data in manifests and reports, by default the names of the sources.
        licence: Licence line to print with everything made from the data, by default CODH's for its data sets and
            unknown for any other images.
        overwrite: Replace OUTPUT if `combine` made it.
    """
    started = time.perf_counter()
    budget = Budget(text=max_bad)
    if val is not None:
        check_fractions(val, 0.0)
    inputs = find_sources(sources, legacy, names=read_class_names(classes), as_is=as_is)
    given = (*sources, *legacy, *([classes] if classes else []))
    with OutputFolder(output, maker="combine", inputs=given, overwrite=overwrite) as folder:
        spool = folder / SPOOL_NAME
        with spool.open("wb") as file:
            read = _read_all(inputs, file)
        read.keep_within(budget)
        found = sort_out(read.candidates)
        _require_some(found, inputs)
        class_map = _class_map(inputs, read.candidates)
        described = _described(inputs, read.candidates, name, licence)
        _write(folder, inputs, found, read, class_map, described)
        spool.unlink()
    _report(found, class_map, output, time.perf_counter() - started)
    read.report()
    if val is not None:
        divide_by_fractions(read_originals(output), val=val)
    if described["licence"] == UNKNOWN_LICENCE:
        print("licence: unknown, as these are no images of CODH's; --licence names it in everything made from them")


@dataclass(slots=True)
class Reading:
    """What the sources gave."""

    candidates: list[Candidate] = field(default_factory=list)
    skipped: list[tuple[str, Skipped]] = field(default_factory=list)
    """Files that gave no image, with the name of their source."""
    prepared: int = 0
    """Images that were prepared."""
    changes: Counter[str] = field(default_factory=Counter)
    """What was done to them, of tools.ingest.prepare.CHANGES."""

    @property
    def unusable(self) -> list[tuple[str, Skipped]]:
        """Images that cannot be used."""
        return [(source, file) for source, file in self.skipped if file.unusable]

    def keep_within(self, budget: Budget) -> None:
        """Raises InputError if more images are unusable than are allowed."""
        bad = self.unusable
        total = len(self.candidates) + len(bad)
        if not budget.allows(len(bad), total):
            found = f"{len(bad):,} of {counted(total, 'image')} cannot be used, --max-bad is {budget.text}"
            raise InputError(f"{bad[0][1].why[:300]} ({found})")

    def facts(self) -> dict[str, object]:
        """For originals.json."""
        files = {"unusable": len(self.unusable), "other_files": len(self.skipped) - len(self.unusable)}
        return {"prepared": self.prepared, "changes": dict(sorted(self.changes.items())), **files}

    def report(self) -> None:
        """Say what was done, and what was left out."""
        if self.prepared:
            what = (f"{self.changes[change]:,} {change}" for change in CHANGES if self.changes[change])
            done = "; ".join([f"prepared as `kkanji predict` does: {counted(self.prepared, 'image')}", *what])
            print(done)
        for _, file in self.unusable[:SHOWN]:
            print(f"unusable: {printable(file.why)}")
        others = [file for _, file in self.skipped if not file.unusable]
        if others:
            print(f"left out: {counted(len(others), 'file')} that are no images, such as {printable(others[0].member)}")


def find_sources(
    paths: Sequence[Path],
    legacy: Sequence[Path],
    *,
    names: ClassNames | None = None,
    as_is: bool = False,
) -> list[Source]:
    """The sources at these paths. Raises InputError."""
    inputs: list[Source] = []
    for path in paths:
        inputs += _source(path, names or ClassNames(), as_is)
    for path in legacy:
        kind = LegacyArrays if has_arrays(path) else ClassFolders
        inputs.append(kind(path=path, origin=Origin.UNKNOWN))
    if not inputs:
        raise InputError("no SOURCE given; expected folders or archives, as in `kkanji combine kkanji.tar`")
    return inputs


def _source(path: Path, names: ClassNames, as_is: bool) -> Sequence[Source]:
    if path.suffix == ".npz" and path.is_file():
        return [npz_source(path)]
    if IDX_NAME.fullmatch(path.name) and path.is_file():
        return [idx_source(path, names)]
    if has_arrays(path):
        raise InputError(f"{path}: arrays of unknown lineage ({IMAGES_NAME}); give them by --legacy {path}")
    if is_webdataset(path):
        return [WebDataset(path=path, origin=Origin.UNKNOWN, names=names, as_is=as_is)]
    return npz_sources(path) or idx_sources(path, names) or [ClassFolders(path=path, names=names, as_is=as_is)]


def _read_all(inputs: Sequence[Source], spool: BinaryIO) -> Reading:
    read = Reading()
    with count_images() as progress:
        for source in inputs:
            before = len(read.candidates), len(read.unusable)
            for candidate in _read_source(source, spool, read):
                read.candidates.append(candidate)
                progress.update()
            if before == (len(read.candidates), len(read.unusable)):
                raise InputError(f"{source.path}: no image in it; expected U+XXXX/<name>.png at any depth")
    return read


def _images(source: Source, read: Reading) -> Iterator[Found]:
    """The images of a source. Its other files are noted."""
    for found in source.images():
        if isinstance(found, Skipped):
            read.skipped.append((source.name, found))
            continue
        read.prepared += found.prepared
        read.changes.update(found.changes)
        yield found


def _read_source(source: Source, spool: BinaryIO, read: Reading) -> Iterator[Candidate]:
    row = len(read.candidates)
    name, light, number = source.name, 0, row - 1
    for number, (member, code_point, pixels, _, _) in enumerate(_images(source, read), row):
        spool.write(pixels)
        light += sum(pixels[:IMAGE_SIZE]) + sum(pixels[-IMAGE_SIZE:]) > LIGHT
        yield Candidate(
            code_point=code_point,
            digest=hashlib.sha256(pixels).digest(),
            source=name,
            member=member,
            row=number,
            blank=pixels == pixels[:1] * IMAGE_BYTES,
            official=source.official,
            origin=source.origin,
        )
    if 2 * light > number + 1 - row:
        found = f"{light:,} of {number + 1 - row:,} images are light at their edges, as dark ink on light paper is"
        warnings.warn(f"{source.path}: {found}; white ink on black is expected: invert them", stacklevel=2)


def _described(
    inputs: Sequence[Source], candidates: Sequence[Candidate], name: str | None, licence: str | None
) -> dict[str, str]:
    """Name and licence, as given or as the sources are recognised."""
    of: dict[str, list[tuple[str, str]]] = {source.name: [] for source in inputs}
    for candidate in candidates:
        of[candidate.source].append((candidate.member, candidate.digest.hex()))
    found = sorted({source.publication(of[source.name]) for source in inputs})
    licences = sorted({each.licence for each in found})
    together = "; ".join(f"{each.title}: {each.licence}" for each in found)
    return {
        "name": " + ".join(sorted({each.title for each in found})) if name is None else name,
        "licence": (licences[0] if len(licences) == 1 else together) if licence is None else licence,
    }


def _require_some(found: Sorted, inputs: Sequence[Source]) -> None:
    if not found.kept:
        names = ", ".join(str(source.path) for source in inputs)
        raise InputError(f"{names}: all {len(found.dropped)} images are blank or in conflict; expected some to keep")


def _class_map(inputs: Sequence[Source], candidates: Sequence[Candidate]) -> ClassMap:
    points = {candidate.code_point for candidate in candidates} | {point for one in inputs for point in one.classes()}
    return ClassMap.of(points, {point: text for one in inputs for point, text in one.names_of_classes().items()})


def _write(
    folder: Path,
    inputs: Sequence[Source],
    found: Sorted,
    read: Reading,
    classes: ClassMap,
    described: dict[str, str],
) -> None:
    """Write the originals. Their pixels come from the spool, which has them in the order of reading."""
    pixels = np.memmap(folder / SPOOL_NAME, np.uint8, "r").reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    spooled = np.array([candidate.row for candidate in found.kept], np.int64)
    dropped = [
        (why, label(candidate.code_point), candidate.source, candidate.member, candidate.id, candidate.official)
        for why, candidate in found.dropped
    ]
    dropped += [(UNUSABLE, "", source, file.member, "", "") for source, file in sorted(read.unusable)]
    identities = sorted(identity for source in inputs for identity in source.identities())
    facts = {
        **described,
        "counts": _counts(found, classes),
        "official": _official_counts(found),
        "preparation": read.facts(),
        "lineage": dict(Counter(sorted(candidate.origin for candidate in found.kept))),
        "classes_without_images": _vanished(found, classes),
    }
    write_originals(
        folder,
        [_table_row(candidate) for candidate in found.kept],
        lambda numbers: np.take(pixels, spooled[numbers], axis=0),
        classes=classes,
        dropped=csv_text(DROPPED_COLUMNS, dropped),
        facts=facts,
        sources=[{"name": name, "sha256": sha256 or None} for name, sha256 in identities],
    )


def _table_row(candidate: Candidate) -> Row:
    return Row(
        id=candidate.id,
        label=label(candidate.code_point),
        source=candidate.source,
        member=candidate.member,
        sha256=candidate.digest.hex(),
        official=candidate.official,
        lineage=candidate.origin,
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
    """Images read and kept of each official split, and images moved to test since an identical image is there."""
    read = Counter(candidate.official for candidate in [*found.kept, *(candidate for _, candidate in found.dropped)])
    kept = Counter(candidate.official for candidate in found.kept)
    parts = {part: {"read": read[part], "kept": kept[part]} for part in ("train", "test")}
    return {**parts, "twins_of_test": found.moved}


def _vanished(found: Sorted, classes: ClassMap) -> list[str]:
    """Labels of the classes that have lost all their images."""
    lost = set(classes.code_points) - {candidate.code_point for candidate in found.kept}
    return [label(code_point) for code_point in sorted(lost)]


def _report(found: Sorted, classes: ClassMap, output: Path, seconds: float) -> None:
    counts = _counts(found, classes)
    for reason, candidate in found.dropped[:SHOWN]:
        print(f"{reason}: {label(candidate.code_point)} {candidate.source}: {printable(candidate.member)}")
    if len(found.dropped) > SHOWN:
        print(f"... and {len(found.dropped) - SHOWN} more in {output / DROPPED_NAME}")
    vanished = _vanished(found, classes)
    if vanished:
        warnings.warn(f"{len(vanished)} classes have no image left: {' '.join(vanished[:SHOWN])}", stacklevel=2)
    print(
        f"{output}: {counted(counts['kept'], 'original')} of {counted(counts['classes'], 'class', 'classes')} from "
        f"{counted(counts['read'], 'image')} "
        f"({counts[BLANK]} blank, {counts[IDENTICAL]} identical, {counts[CONFLICT]} in conflict dropped); "
        f"{seconds:.1f} s, {counts['read'] / seconds:,.0f} images/s"
    )
