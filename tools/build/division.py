"""A division of originals into splits: checked, written beside them, and reported."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards import InputError, Lineage, write_file
from shards.output.ownership import MARKER_NAME, marker_with
from tools.ingest import originals
from tools.ingest.originals import NO_SPLIT, SPLITS, Originals
from tools.ingest.split_protocols import RULES, by_fractions
from tools.ingest.tables import write_csv, write_facts

FILES = (originals.SPLIT_FACTS_NAME, originals.SPLIT_TABLE_NAME)


class Division(NamedTuple):
    """The result of a protocol."""

    numbers: NDArray[np.int8]
    """Positions in SPLITS, or NO_SPLIT, [N]."""
    options: dict[str, object]
    """How the split was made, for split.json."""
    requested: dict[str, float]
    """Requested fraction of the images, by split."""


def check_fractions(val: float, test: float) -> None:
    """Raise InputError for fractions that leave nothing to train on, or are none."""
    for option, fraction in (("--val", val), ("--test", test)):
        if not 0 <= fraction < 1:
            raise InputError(f"{option} {fraction}: expected a fraction from 0 to below 1, as in {option} 0.2")
    if val + test >= 1:
        raise InputError(f"--val {val} and --test {test} leave nothing for train; expected a sum below 1")


def by_fractions_of(combined: Originals, val: float, test: float, seed: int) -> Division:
    """The division by fractions of each class."""
    numbers = by_fractions(combined, val=val, test=test, seed=seed)
    requested = {"train": 1 - val - test, "val": val, "test": test}
    return Division(numbers, division_options("fractions", seed, val, test), requested)


def divide_by_fractions(combined: Originals, *, val: float) -> None:
    """Divide originals as `kkanji split --val` does. Raises InputError."""
    write_division(combined, by_fractions_of(combined, val, 0.0, 0))


def division_options(protocol: str, seed: int | None, val: float, test: float) -> dict[str, object]:
    """How a split was made, for split.json."""
    return {"protocol": protocol, "seed": seed, "val": val, "test": test, "rule": RULES[protocol]}


def write_division(combined: Originals, division: Division) -> None:
    """Write a division beside its originals, and print it. Raises InputError if a split that was asked for is empty."""
    _require_some(combined, division)
    _write(combined, division)
    _report(combined, division)


def _write(combined: Originals, division: Division) -> None:
    ids = (f"{number:016x}" for number in combined.ids.tolist())
    table = zip(ids, map(originals.split_name, division.numbers.tolist()), strict=True)
    sha256 = write_csv(combined.folder / originals.SPLIT_TABLE_NAME, originals.SPLIT_COLUMNS, table)
    images, classes = _per_split(combined, division.numbers)
    facts = {**division.options, "images": images, "classes": classes, "split_sha256": sha256}
    write_facts(combined.folder / originals.SPLIT_FACTS_NAME, originals.SPLIT_FORMAT, originals.SPLIT_VERSION, facts)
    marker = marker_with(combined.folder, FILES)
    if marker is not None:
        write_file(combined.folder / MARKER_NAME, marker)


def _per_split(combined: Originals, numbers: NDArray[np.int8]) -> tuple[dict[str, int], dict[str, int]]:
    """Images and classes of each split."""
    labels = [combined.labels[numbers == number] for number in range(len(SPLITS))]
    images = {name: len(part) for name, part in zip(SPLITS, labels, strict=True)}
    return images, {name: len(np.unique(part)) for name, part in zip(SPLITS, labels, strict=True)}


def _require_some(combined: Originals, division: Division) -> None:
    """A set of official test images alone is for evaluation: nothing of it is trained on."""
    if (combined.official == SPLITS.index("test")).all():
        return
    images, _ = _per_split(combined, division.numbers)
    empty = [name for name, fraction in division.requested.items() if fraction > 0 and not images[name]]
    if empty:
        raise InputError(
            f"{combined.folder}: no image fell to {', '.join(empty)}, since small classes keep one in train; "
            "request a larger fraction or combine more images"
        )


def _report(combined: Originals, division: Division) -> None:
    images, classes = _per_split(combined, division.numbers)
    for name in SPLITS:
        found = images[name] / len(division.numbers)
        requested = division.requested.get(name, 0.0)
        print(f"{name}: {images[name]:,} images ({found:.2%}, requested {requested:.2%}) of {classes[name]:,} classes")
    official = int((combined.official == SPLITS.index("test")).sum())
    if official:
        print(f"of test, {official:,} images are official test images")
    excluded = combined.labels[division.numbers == NO_SPLIT]
    if len(excluded):
        print(f"excluded: {len(excluded):,} images of {len(np.unique(excluded)):,} classes")
    if combined.lineage is Lineage.UNKNOWN:
        print("lineage unknown: images made from one original may be in several splits, and nothing can show it")
