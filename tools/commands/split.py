"""Originals -> train, val, test: class by class, reproducibly, and before anything is augmented.

tools/ingest/split_protocols.py holds the protocols: which images each divides, and how it rounds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from shards import InputError
from shards.output.ownership import listed
from tools.build.division import (
    FILES,
    Division,
    by_fractions_of,
    check_fractions,
    division_options,
    write_division,
)
from tools.ingest import originals
from tools.ingest.originals import NO_SPLIT, SPLITS, Origin, Originals, check_seed, read_originals
from tools.ingest.split_protocols import folded, halved, halved_with_fractions_order
from tools.ingest.tables import SUSPECT_COLUMNS, parse_csv, read_table

SUSPECTS_REMEDY = "expected a list made by `kkanji show --kind suspects`"
SHOWN = 3  # ids quoted in a message
Protocol = Literal["fractions", "half", "half-2026"]


def split(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    val: float = 0.2,
    test: float = 0.0,
    folds: int | None = None,
    fold: int | None = None,
    protocol: Protocol = "fractions",
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    leave_out: tuple[Path, ...] = (),
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Divide originals into train, val and test, class by class.

    Classes with a single image go to train. Official test images (of Kuzushiji-49 and -MNIST) are always test; official
    training images become train or val, never test. Writes FOLDER/split.csv and FOLDER/split.json.

    Example: kkanji split data/originals --val 0.2

    Args:
        folder: Originals, made by `kkanji combine`.
        val: Fraction of the images for validation, from 0 to below 1.
        test: Fraction of the images without an official split for the test split, from 0 to below 1.
        folds: Number of folds to divide each class into; fold FOLD is val, the others are train.
        fold: Number of the fold that is val, from 0 to FOLDS - 1.
        protocol: Rule of the division: fractions (--val and --test) or half, the published protocol on Kuzushiji-Kanji:
            half of every class is train and half test; classes with one image are excluded, with their rendered images.
            half-2026 is the division on which models/kuzushiji-kanji-half was tested.
        from_: A split.csv of the same originals, made elsewhere, to adopt id by id.
        leave_out: Lists of originals, from `kkanji show --kind suspects`, not to train on. Those that the division puts
            into val or test stay there.
        seed: Seed of the division, 0 or more.
        overwrite: Replace an earlier split.
    """
    _check_options(val, test, folds, fold, protocol, from_, seed)
    if from_ is not None and not from_.is_file():
        raise InputError(f"{from_}: no such file; expected a split.csv made by `kkanji split`")
    combined = read_originals(folder)
    _refuse_existing(folder, overwrite)
    if from_ is not None:
        division = adopted(combined, from_)
    elif protocol != "fractions":
        division = _by_half(combined, protocol, seed)
    elif folds is not None and fold is not None:
        division = _by_folds(combined, folds, fold, seed)
    else:
        division = by_fractions_of(combined, val, test, seed)
    write_division(combined, without(combined, division, leave_out) if leave_out else division)


def without(combined: Originals, division: Division, lists: Sequence[Path]) -> Division:
    """The division with the listed originals in no split if they were in train. Raises InputError for a wrong list."""
    ids, listed = [f"{number:016x}" for number in combined.ids.tolist()], set()
    for path in lists:
        rows = parse_csv(read_table(path, SUSPECTS_REMEDY), SUSPECT_COLUMNS, path, SUSPECTS_REMEDY)
        found = {row[0] for row in rows}
        _require_same(path, found - set(ids), f"are not in {combined.folder}", len(found))
        listed |= found
    dropped = np.array([number in listed for number in ids]) & (division.numbers == SPLITS.index("train"))
    options = {**division.options, "left_out": int(dropped.sum())}
    return division._replace(numbers=np.where(dropped, np.int8(NO_SPLIT), division.numbers), options=options)


def adopted(combined: Originals, path: Path) -> Division:
    """The division in a split.csv. Raises InputError unless it has exactly these originals.

    It may have been made before images were rendered from fonts: those that it lacks are for training, unless it leaves
    their whole class out.
    """
    data = read_table(path, "expected a split.csv made by `kkanji split`")
    rows = parse_csv(data, originals.SPLIT_COLUMNS, path, "make it again by `kkanji split`")
    numbers = dict(zip((row[0] for row in rows), originals.split_numbers([row[1] for row in rows], path), strict=True))
    ids = [f"{number:016x}" for number in combined.ids.tolist()]
    rendered = combined.origins == Origin.FONT.number
    written = {number for number, other in zip(ids, rendered.tolist(), strict=True) if not other}
    _require_same(path, numbers.keys() - set(ids), f"are not in {combined.folder}", len(rows))
    _require_same(path, written - numbers.keys(), f"of {combined.folder} are not in it", len(ids))
    if len(rows) != len(numbers):
        raise InputError(f"{path}: {len(rows)} lines for {len(numbers)} ids: some occur twice; expected each id once")
    division = np.array([numbers.get(number, NO_SPLIT) for number in ids], np.int8)
    added = np.array([number not in numbers for number in ids]) & ~_left_out(combined, division)
    division[added] = SPLITS.index("train")
    _require_official(combined, division, path)
    fractions = {name: float((division == number).mean()) for number, name in enumerate(SPLITS)}
    return Division(division, division_options("file", None, fractions["val"], fractions["test"]), fractions)


def _left_out(combined: Originals, division: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Whether each image is of a class whose originals are all in no split, bool [N]."""
    every = np.arange(len(division))
    written = combined.counts(every) - combined.rendered(every)
    kept = combined.counts(every[division != NO_SPLIT])
    left_out: NDArray[np.bool_] = ((written > 0) & (kept == 0))[combined.labels]
    return left_out


def _require_same(path: Path, strange: set[str], found: str, total: int) -> None:
    if strange:
        examples = ", ".join(sorted(strange)[:SHOWN])
        raise InputError(
            f"{path}: {len(strange):,} of {total:,} ids {found}, for example {examples}; expected the split of "
            "the same originals: combine the same sources with the same release"
        )


def _require_official(combined: Originals, division: NDArray[np.int8], path: Path) -> None:
    """A file must not move an official test image into training, nor the reverse."""
    test = SPLITS.index("test")
    wrong = (
        (combined.official != NO_SPLIT) & (division != NO_SPLIT) & ((combined.official == test) != (division == test))
    )
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = f"{combined.ids[row]:016x} is {originals.split_name(int(division[row]))}"
        official = originals.split_name(int(combined.official[row]))
        raise InputError(
            f"{path}: {int(wrong.sum()):,} images leave their official split, for example {found} but officially "
            f"{official}; expected official test images in test and no official training image there"
        )


def _by_folds(combined: Originals, folds: int, fold: int, seed: int) -> Division:
    numbers = folded(combined, folds=folds, fold=fold, seed=seed)
    options = {**division_options("folds", seed, 1 / folds, 0.0), "folds": folds, "fold": fold}
    return Division(numbers, options, {"train": 1 - 1 / folds, "val": 1 / folds})


def _by_half(combined: Originals, protocol: Protocol, seed: int) -> Division:
    halve = halved if protocol == "half" else halved_with_fractions_order
    return Division(halve(combined, seed=seed), division_options(protocol, seed, 0.0, 0.5), {"train": 0.5, "test": 0.5})


def _check_options(
    val: float, test: float, folds: int | None, fold: int | None, protocol: str, from_: Path | None, seed: int
) -> None:
    check_fractions(val, test)
    if (folds is None) != (fold is None) or (folds is not None and folds < 2):
        given = " ".join(f"{name} {n}" for name, n in (("--folds", folds), ("--fold", fold)) if n is not None)
        raise InputError(f"{given}: expected both, at least two folds, as in --folds 5 --fold 0")
    if folds is not None and fold is not None and not 0 <= fold < folds:
        raise InputError(f"--fold {fold}: expected 0 to {folds - 1}")
    others = [protocol != "fractions", folds is not None, from_ is not None]
    if sum(others) > 1 or (any(others) and (val, test) != (0.2, 0.0)):
        raise InputError(
            "--val and --test, --folds, --protocol half, --from: four ways to divide; expected one of them"
        )
    check_seed(seed)


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    """Replace only a split that this command made: the marker lists it or, in early versions, its checksum fits."""
    facts, table = (folder / name for name in FILES)
    if not (facts.exists() or table.exists() or table.is_symlink()):
        return
    if facts.exists() and not overwrite:
        raise InputError(f"{facts}: a split exists; --overwrite replaces it")
    if not listed(folder).issuperset(FILES) and not originals.is_split(folder):
        found = f"beside {', '.join(path.name for path in (facts, table) if path.exists())}, which `split` did not make"
        raise InputError(f"{folder}: no split is written {found}; move that elsewhere")
