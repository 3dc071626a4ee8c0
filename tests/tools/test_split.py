"""split: no original in two splits, one of every class in train, the shares hold, other classes change nothing."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kkanji.classes import class_map
from shards.errors import InputError
from tools.originals import SPLITS, Originals, read_originals, read_split
from tools.split import assign, quotas, split

TRAIN, VAL, TEST = range(3)
class_counts = st.dictionaries(st.integers(0x4E00, 0x9FFF), st.integers(1, 40), min_size=1, max_size=30)
shares = st.tuples(st.floats(0, 0.6), st.floats(0, 0.39))
seeds = st.integers(0, 2**63 - 1)


def originals_of(counts: dict[int, int]) -> Originals:
    """Originals without pixels; the ids of a class follow from its code point alone."""
    classes = class_map(counts)
    ids = [np.random.default_rng(point).integers(0, 2**64, counts[point], np.uint64) for point in classes.code_points]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [counts[point] for point in classes.code_points])
    no_images = np.empty((0, 64, 64), np.uint8)
    return Originals(folder=Path(), images=no_images, ids=np.concatenate(ids), labels=labels, classes=classes, facts={})


def by_id(combined: Originals, numbers: NDArray[np.int8]) -> dict[int, int]:
    return dict(zip(combined.ids.tolist(), numbers.tolist(), strict=True))


@given(class_counts, shares, seeds)
def test_every_class_keeps_one_in_train(counts: dict[int, int], share: tuple[float, float], seed: int) -> None:
    combined = originals_of(counts)
    numbers = assign(combined, val=share[0], test=share[1], seed=seed)
    for label, count in enumerate(np.bincount(combined.labels)):
        in_class = numbers[combined.labels == label]
        assert (in_class == TRAIN).sum() >= 1
        for number, asked in ((VAL, share[0]), (TEST, share[1])):
            assert (in_class == number).sum() <= np.ceil(count * asked) + 1
    assert by_id(combined, numbers) == by_id(combined, assign(combined, val=share[0], test=share[1], seed=seed))


@given(class_counts, st.integers(0xA000, 0xAFFF), st.integers(1, 40), seeds)
def test_adding_a_class_moves_no_other_original(counts: dict[int, int], new: int, size: int, seed: int) -> None:
    smaller, larger = originals_of(counts), originals_of({**counts, new: size, 0x3400: 2})
    before = by_id(smaller, assign(smaller, val=0.2, test=0.1, seed=seed))
    after = by_id(larger, assign(larger, val=0.2, test=0.1, seed=seed))
    assert before.items() <= after.items()


@given(st.permutations(range(20)), seeds)
def test_the_order_of_the_originals_is_no_matter(order: list[int], seed: int) -> None:
    combined = originals_of({0x4E00: 12, 0x4E01: 8})
    moved = Originals(
        folder=combined.folder,
        images=combined.images,
        ids=combined.ids[order],
        labels=combined.labels[order],
        classes=combined.classes,
        facts={},
    )
    expected = by_id(combined, assign(combined, val=0.3, test=0.2, seed=seed))
    assert by_id(moved, assign(moved, val=0.3, test=0.2, seed=seed)) == expected


@given(st.integers(1, 1000), shares, st.floats(0, 1, exclude_max=True))
def test_quotas_are_the_share_rounded_up_or_down(count: int, share: tuple[float, float], rounding: float) -> None:
    val, test = quotas(count, *share, rounding)
    assert val >= 0 and test >= 0 and val + test <= count - 1
    assert val + test == count - 1 or abs(val - count * share[0]) <= 1
    assert val + test == count - 1 or abs(val + test - count * sum(share)) <= 1


@settings(max_examples=10)
@given(seeds)
def test_shares_hold_in_total_although_classes_are_small(seed: int) -> None:
    long_tail = {0x4E00 + number: 2 + 3000 // (number + 10) ** 2 + number % 9 for number in range(2000)}
    combined = originals_of(long_tail)
    numbers = assign(combined, val=0.2, test=0.1, seed=seed)
    assert abs((numbers == VAL).mean() - 0.2) < 0.01
    assert abs((numbers == TEST).mean() - 0.1) < 0.01


def test_one_of_two_images_is_held_out_in_the_right_share_of_classes() -> None:
    combined = originals_of({0x4E00 + number: 2 for number in range(4000)})
    numbers = assign(combined, val=0.2, test=0.0, seed=0)
    assert abs((numbers == VAL).sum() - 0.4 * 4000) < 100  # 3 standard deviations
    assert len(set(numbers[::2].tolist())) == len(set(numbers[1::2].tolist())) == 2


def test_another_seed_splits_differently() -> None:
    combined = originals_of({0x4E00: 100})
    first, second = (assign(combined, val=0.5, test=0.0, seed=seed) for seed in (0, 1))
    assert 30 < (first != second).sum() < 70


def test_files_hold_one_split_for_each_original(originals_folder: Callable[..., Path]) -> None:
    folder = originals_folder({"U+4E00": 20, "U+4E01": 5, "U+4E02": 1}, val=0.2, test=0.2)
    combined = read_originals(folder)
    with (folder / "split.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"], 16) for row in rows] == combined.ids.tolist()
    table = read_split(combined)
    assert [SPLITS[number] for number in table.numbers] == [row["split"] for row in rows]
    facts = json.loads((folder / "split.json").read_text())
    assert (facts["seed"], facts["val"], facts["test"]) == (0, 0.2, 0.2)
    assert facts["images"] == {name: len(table.rows(name)) for name in SPLITS}
    assert facts["classes"] == {name: len(set(combined.labels[table.rows(name)])) for name in SPLITS}


def test_a_split_is_the_same_bytes_again_and_kept_unless_told(originals_folder: Callable[..., Path]) -> None:
    folder = originals_folder({"U+4E00": 20, "U+4E01": 5})
    before = (folder / "split.csv").read_bytes()
    with pytest.raises(InputError, match="there is a split already; --overwrite replaces it"):
        split(folder)
    split(folder, overwrite=True)
    assert (folder / "split.csv").read_bytes() == before
    split(folder, overwrite=True, seed=1)
    assert (folder / "split.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 1.0}, "--val 1.0: expected a share from 0 to below 1"),
        ({"val": -0.1}, "--val -0.1: expected a share"),
        ({"val": float("nan")}, "--val nan: expected a share"),
        ({"val": 0.5, "test": 0.5}, "leave nothing for train; expected a sum below 1"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(tmp_path, **options)  # type: ignore[arg-type]


def test_originals_that_are_missing_or_changed_are_refused(
    originals_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"originals.json: No such file or directory; it is written last by `python -m"
    ):
        split(tmp_path)
    folder = originals_folder({"U+4E00": 20})
    table = folder / "originals.csv"
    table.write_text(table.read_text().replace("U+4E00", "U+4E01"))
    with pytest.raises(InputError, match=r"originals.csv: sha256 \w+, expected \w+: changed since it was written"):
        split(folder, overwrite=True)


def test_too_few_images_for_a_split_are_refused(originals_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no image fell to val, since small classes keep one in train; ask for"):
        originals_folder({"U+4E00": 1, "U+4E01": 1})
