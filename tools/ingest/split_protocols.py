"""Which originals go to train, val and test: the protocols as pure functions of ids, code points and a seed.

The split of an original depends on the seed, its class and its id, never on the other originals. Official splits are
kept: official test images are test, and official training images are train or val, so that the test images of a class
with an official test set are exactly that set. Images rendered from fonts are for training only.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards import InputError
from shards.order.permutation import mix
from tools.ingest import originals
from tools.ingest.originals import NO_SPLIT, SPLITS, Origin, Originals

TRAIN, VAL, TEST = range(len(SPLITS))
HALF = int.from_bytes(b"half")
RULES = {
    "fractions": (
        "stratified by class over distinct originals; classes with one image to train only, every class keeps one in "
        "train; order within a class and rounding depend on seed, id and code point alone"
    ),
    "folds": (
        "each class dealt in turn to the folds, from a fold that depends on seed and code point; one fold is val, the "
        "others train; classes with one image to train only"
    ),
    "half": (
        "classes with one original left out; of every other class half is train, half test; the odd image of a class "
        "falls to either by seed and code point; order within a class depends on seed and id"
    ),
    "half-2026": (
        "as half, but in the order within a class of fractions: all its validation images are test images here"
    ),
    "file": "as a file has it, original by original",
}


class Pool(NamedTuple):
    """Originals of one class that are divided together."""

    rows: NDArray[np.int64]
    """Their rows, in an order that depends on seed and ids alone."""
    code_point: int
    official: bool
    """Whether they are official training images."""


def by_fractions(combined: Originals, *, val: float, test: float, seed: int) -> NDArray[np.int8]:
    """The split number of each original [N], by fractions of each class."""
    numbers = _bound(combined)
    for pool in _pools(combined, seed):
        wanted = 0.0 if pool.official else test
        val_count, test_count = quotas(len(pool.rows), val, wanted, _rounding(pool.code_point, seed))
        numbers[pool.rows[:val_count]] = VAL
        numbers[pool.rows[val_count : val_count + test_count]] = TEST
    return numbers


def folded(combined: Originals, *, folds: int, fold: int, seed: int) -> NDArray[np.int8]:
    """The split number of each original [N]: each one is val in one fold, unless it is alone in its class."""
    numbers = _bound(combined)
    for pool in _pools(combined, seed):
        first = mix(mix(mix(seed)) ^ pool.code_point) % folds
        mine = (np.arange(len(pool.rows)) + first) % folds == fold
        numbers[pool.rows[mine & (len(pool.rows) > 1)]] = VAL
    return numbers


def halved(combined: Originals, *, seed: int) -> NDArray[np.int8]:
    """The split number of each original [N] by the published protocol (cgn-shinkirou/kkanji, 2022).

    Its order within a class has nothing to do with that of `by_fractions`, so that settings which were chosen on the
    validation images of the one favour no half of the other.
    """
    return halved_with_fractions_order(combined, seed=mix(seed ^ HALF))


def halved_with_fractions_order(combined: Originals, *, seed: int) -> NDArray[np.int8]:
    """As `halved` until December 2026: the test half has every validation image of `by_fractions`, of the same seed."""
    official = int((combined.official != NO_SPLIT).sum())
    if official:
        raise InputError(
            f"{combined.folder}: {official:,} images have an official split, which --protocol half would undo; "
            "combine Kuzushiji-Kanji alone for it"
        )
    numbers = _bound(combined)
    for pool in _pools(combined, seed):
        _, test_count = quotas(len(pool.rows), 0.0, 0.5, _rounding(pool.code_point, seed))
        numbers[pool.rows[:test_count]] = TEST
    every = np.arange(len(combined.ids))
    written = combined.counts(every) - combined.rendered(every)
    numbers[written[combined.labels] <= 1] = NO_SPLIT  # also their rendered images: the protocol excludes the class
    return numbers


def quotas(count: int, val: float, test: float, rounding: float) -> tuple[int, int]:
    """Images of a class for val and test.

    With `rounding` uniform in [0, 1) the fractions hold on average, however small the classes are: of two images at
    20 %, one goes to val in 40 % of such classes.
    """
    held_out = min(math.floor(count * (val + test) + rounding), count - 1)
    val_count = min(math.floor(count * val + rounding), held_out)
    return val_count, held_out - val_count


def _bound(combined: Originals) -> NDArray[np.int8]:
    """All originals in train, except official test images."""
    return np.where(combined.official == TEST, TEST, TRAIN).astype(np.int8)


def _pools(combined: Originals, seed: int) -> Iterator[Pool]:
    """The originals to divide, class by class."""
    free = (combined.official != TEST) & (combined.origins != Origin.FONT.number)
    keys = originals.order_keys(combined.ids, seed)
    order = np.lexsort((combined.ids, keys, combined.official, combined.labels))
    order = order[free[order]]
    pool = combined.labels[order].astype(np.int64) * (len(SPLITS) + 1) + combined.official[order]
    for rows in np.split(order, np.flatnonzero(np.diff(pool)) + 1):
        if len(rows):
            row = rows[0]
            code_point = combined.classes.code_points[combined.labels[row]]
            yield Pool(rows=rows, code_point=code_point, official=bool(combined.official[row] != NO_SPLIT))


def _rounding(code_point: int, seed: int) -> float:
    return mix(mix(mix(seed)) ^ code_point) / 2.0**64
