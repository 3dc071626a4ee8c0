"""Originals -> train, val, test: before anything is augmented, class by class, reproducibly."""

import math
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from shards import InputError
from shards.permutation import mix
from tools import originals
from tools.originals import SPLITS, Originals, check_seed, read_originals

RULE = (
    "stratified by class over distinct originals; classes with one image to train only, every class keeps one in "
    "train; order within a class and rounding depend on seed, id and code point alone"
)


def split(
    folder: tyro.conf.Positional[Path],
    /,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Divide originals into train, val and test, class by class.

    Classes with a single image go to train. Writes FOLDER/split.csv and FOLDER/split.json.

    Example: python -m tools split originals --val 0.2

    Args:
        folder: originals, made by `python -m tools combine`
        val: share of the images for validation
        test: share of the images for a test set that is measured once
        seed: another seed divides differently; 0 or more
        overwrite: replace an earlier split
    """
    _check_options(val, test, seed)
    if (folder / originals.SPLIT_FACTS_NAME).exists() and not overwrite:
        raise InputError(f"{folder / originals.SPLIT_FACTS_NAME}: there is a split already; --overwrite replaces it")
    combined = read_originals(folder)
    numbers = assign(combined, val=val, test=test, seed=seed)
    asked = {"train": 1 - val - test, "val": val, "test": test}
    _require_some(combined, numbers, asked)
    _write(combined, numbers, {"seed": seed, "val": val, "test": test, "rule": RULE})
    _report(combined, numbers, asked)


def assign(combined: Originals, *, val: float, test: float, seed: int) -> NDArray[np.int8]:
    """The split number of each original [N]."""
    code_points = np.array(combined.classes.code_points)[combined.labels]
    order = np.lexsort((combined.ids, originals.order_keys(combined.ids, seed), code_points))
    counts = np.bincount(combined.labels, minlength=len(combined.classes))
    numbers = np.zeros(len(order), np.int8)
    start = 0
    for code_point, count in sorted(zip(combined.classes.code_points, counts.tolist(), strict=True)):
        val_count, test_count = quotas(count, val, test, _rounding(code_point, seed))
        numbers[order[start : start + val_count]] = SPLITS.index("val")
        numbers[order[start + val_count : start + val_count + test_count]] = SPLITS.index("test")
        start += count
    return numbers


def quotas(count: int, val: float, test: float, rounding: float) -> tuple[int, int]:
    """Images of a class for val and test. With `rounding` uniform in [0, 1) they are right on average, however small
    the class: two images at 20 % give one to val in 40 % of such classes."""
    held_out = min(math.floor(count * (val + test) + rounding), count - 1)
    val_count = min(math.floor(count * val + rounding), held_out)
    return val_count, held_out - val_count


def _rounding(code_point: int, seed: int) -> float:
    return mix(mix(mix(seed)) ^ code_point) / 2.0**64


def _check_options(val: float, test: float, seed: int) -> None:
    for option, share in (("--val", val), ("--test", test)):
        if not 0 <= share < 1:
            raise InputError(f"{option} {share}: expected a share from 0 to below 1, as in {option} 0.2")
    if val + test >= 1:
        raise InputError(f"--val {val} and --test {test} leave nothing for train; expected a sum below 1")
    check_seed(seed)


def _write(combined: Originals, numbers: NDArray[np.int8], options: dict[str, object]) -> None:
    table = ((f"{number:016x}", SPLITS[split]) for number, split in zip(combined.ids.tolist(), numbers, strict=True))
    sha256 = originals.write_table(combined.folder / originals.SPLIT_TABLE_NAME, originals.SPLIT_COLUMNS, table)
    images, classes = _per_split(combined, numbers)
    facts = {**options, "images": images, "classes": classes, "split_sha256": sha256}
    originals.write_facts(combined.folder / originals.SPLIT_FACTS_NAME, originals.SPLIT_FORMAT, facts)


def _per_split(combined: Originals, numbers: NDArray[np.int8]) -> tuple[dict[str, int], dict[str, int]]:
    """Images and classes of each split."""
    labels = [combined.labels[numbers == number] for number in range(len(SPLITS))]
    images = {name: len(part) for name, part in zip(SPLITS, labels, strict=True)}
    return images, {name: len(np.unique(part)) for name, part in zip(SPLITS, labels, strict=True)}


def _require_some(combined: Originals, numbers: NDArray[np.int8], asked: dict[str, float]) -> None:
    images, _ = _per_split(combined, numbers)
    empty = [name for name, share in asked.items() if share > 0 and not images[name]]
    if empty:
        raise InputError(
            f"{combined.folder}: no image fell to {', '.join(empty)}, since small classes keep one in train; "
            "ask for a larger share or combine more images"
        )


def _report(combined: Originals, numbers: NDArray[np.int8], asked: dict[str, float]) -> None:
    images, classes = _per_split(combined, numbers)
    for name, share in asked.items():
        found = images[name] / len(numbers)
        print(f"{name}: {images[name]:,} images ({found:.2%}, asked {share:.2%}) of {classes[name]:,} classes")
