"""split: no original in two splits, one of every class in train, the fractions hold, other classes change nothing."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kkanji.classes import ClassMap
from shards import read_manifest
from shards.errors import InputError
from tools.commands.pack import pack
from tools.commands.split import adopted, split
from tools.commands.verify import verify
from tools.ingest.originals import NO_SPLIT, SPLITS, Originals, SplitTable, read_originals, read_split
from tools.ingest.split_protocols import by_fractions as assign
from tools.ingest.split_protocols import folded, halved, halved_with_fractions_order, quotas

TRAIN, VAL, TEST = range(3)
class_counts = st.dictionaries(st.integers(0x4E00, 0x9FFF), st.integers(1, 40), min_size=1, max_size=30)
fractions = st.tuples(st.floats(0, 0.6), st.floats(0, 0.39))
seeds = st.integers(0, 2**63 - 1)


def originals_of(counts: dict[int, int]) -> Originals:
    """Originals without pixels; the ids of a class follow from its code point alone."""
    classes = ClassMap.of(counts)
    ids = [np.random.default_rng(point).integers(0, 2**64, counts[point], np.uint64) for point in classes.code_points]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [counts[point] for point in classes.code_points])
    no_images = np.empty((0, 64, 64), np.uint8)
    return Originals(
        folder=Path(),
        images=no_images,
        ids=np.concatenate(ids),
        labels=labels,
        official=np.full(len(labels), NO_SPLIT, np.int8),
        origins=np.zeros(len(labels), np.int8),
        sources=np.zeros(len(labels), np.int32),
        source_names=("random",),
        classes=classes,
        facts={},
    )


def by_id(combined: Originals, numbers: NDArray[np.int8]) -> dict[int, int]:
    return dict(zip(combined.ids.tolist(), numbers.tolist(), strict=True))


@given(class_counts, fractions, seeds)
def test_every_class_keeps_one_in_train(counts: dict[int, int], fraction: tuple[float, float], seed: int) -> None:
    combined = originals_of(counts)
    numbers = assign(combined, val=fraction[0], test=fraction[1], seed=seed)
    for label, count in enumerate(np.bincount(combined.labels)):
        in_class = numbers[combined.labels == label]
        assert (in_class == TRAIN).sum() >= 1
        for number, wanted in ((VAL, fraction[0]), (TEST, fraction[1])):
            assert (in_class == number).sum() <= np.ceil(count * wanted) + 1
    assert by_id(combined, numbers) == by_id(combined, assign(combined, val=fraction[0], test=fraction[1], seed=seed))


@given(class_counts, st.integers(0xA000, 0xAFFF), st.integers(1, 40), seeds)
def test_adding_a_class_moves_no_other_original(counts: dict[int, int], new: int, size: int, seed: int) -> None:
    smaller, larger = originals_of(counts), originals_of({**counts, new: size, 0x3400: 2})
    before = by_id(smaller, assign(smaller, val=0.2, test=0.1, seed=seed))
    after = by_id(larger, assign(larger, val=0.2, test=0.1, seed=seed))
    assert before.items() <= after.items()


@given(st.permutations(range(20)), seeds)
def test_the_order_of_the_originals_is_no_matter(order: list[int], seed: int) -> None:
    combined = originals_of({0x4E00: 12, 0x4E01: 8})
    moved = replace(combined, ids=combined.ids[order], labels=combined.labels[order])
    expected = by_id(combined, assign(combined, val=0.3, test=0.2, seed=seed))
    assert by_id(moved, assign(moved, val=0.3, test=0.2, seed=seed)) == expected


@given(st.integers(1, 1000), fractions, st.floats(0, 1, exclude_max=True))
def test_quotas_are_the_fraction_rounded_up_or_down(count: int, fraction: tuple[float, float], rounding: float) -> None:
    val, test = quotas(count, *fraction, rounding)
    assert val >= 0 and test >= 0 and val + test <= count - 1
    assert val + test == count - 1 or abs(val - count * fraction[0]) <= 1
    assert val + test == count - 1 or abs(val + test - count * sum(fraction)) <= 1


@settings(max_examples=10)
@given(seeds)
def test_fractions_hold_in_total_although_classes_are_small(seed: int) -> None:
    long_tail = {0x4E00 + number: 2 + 3000 // (number + 10) ** 2 + number % 9 for number in range(2000)}
    combined = originals_of(long_tail)
    numbers = assign(combined, val=0.2, test=0.1, seed=seed)
    assert abs((numbers == VAL).mean() - 0.2) < 0.01
    assert abs((numbers == TEST).mean() - 0.1) < 0.01


def test_one_of_two_images_is_held_out_in_the_right_fraction_of_classes() -> None:
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


def test_a_split_is_the_same_bytes_again_and_kept_without_overwrite(originals_folder: Callable[..., Path]) -> None:
    folder = originals_folder({"U+4E00": 20, "U+4E01": 5})
    before = (folder / "split.csv").read_bytes()
    with pytest.raises(InputError, match="a split exists; --overwrite replaces it"):
        split(folder)
    split(folder, overwrite=True)
    assert (folder / "split.csv").read_bytes() == before
    split(folder, overwrite=True, seed=1)
    assert (folder / "split.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 1.0}, "--val 1.0: expected a fraction from 0 to below 1"),
        ({"val": -0.1}, "--val -0.1: expected a fraction"),
        ({"val": float("nan")}, "--val nan: expected a fraction"),
        ({"val": 0.5, "test": 0.5}, "leave nothing for train; expected a sum below 1"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
        ({"folds": 5}, "^--folds 5: expected both"),
        ({"fold": 1}, "^--fold 1: expected both"),
        ({"folds": 1, "fold": 0}, "at least two folds, as in --folds 5 --fold 0"),
        ({"folds": 5, "fold": 5}, "--fold 5: expected 0 to 4"),
        ({"folds": 5, "fold": 0, "protocol": "half"}, "four ways to divide; expected one of them"),
        ({"protocol": "half", "val": 0.1}, "four ways to divide; expected one of them"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(tmp_path, **options)  # type: ignore[arg-type]


def test_originals_that_are_missing_or_changed_are_refused(
    originals_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"originals.json: No such file or directory; it is written last by `kkanji combine`"
    ):
        split(tmp_path)
    folder = originals_folder({"U+4E00": 20})
    table = folder / "originals.csv"
    table.write_text(table.read_text().replace("U+4E00", "U+4E01"))
    with pytest.raises(InputError, match=r"originals.csv: sha256 \w+, expected \w+: changed since it was written"):
        split(folder, overwrite=True)


def test_too_few_images_for_a_split_are_refused(originals_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no image fell to val, since small classes keep one in train; request"):
        originals_folder({"U+4E00": 1, "U+4E01": 1})


@given(class_counts, st.integers(2, 7), seeds)
def test_over_all_folds_each_image_is_val_once(counts: dict[int, int], folds: int, seed: int) -> None:
    combined = originals_of(counts)
    sizes = np.bincount(combined.labels)[combined.labels]
    val = np.stack([folded(combined, folds=folds, fold=fold, seed=seed) == VAL for fold in range(folds)])
    assert np.array_equal(val.sum(axis=0), (sizes > 1).astype(int))
    for one in val:
        kept = np.bincount(combined.labels[~one], minlength=len(counts))
        assert kept.min() >= 1
        held_out = np.bincount(combined.labels[one], minlength=len(counts))
        assert np.all(np.abs(held_out - np.bincount(combined.labels) / folds) < 1)


@given(class_counts, seeds)
def test_halves_are_even_and_leave_single_images_out(counts: dict[int, int], seed: int) -> None:
    combined = originals_of(counts)
    numbers = halved(combined, seed=seed)
    for label, count in enumerate(np.bincount(combined.labels)):
        train, test, left_out = (
            (numbers[combined.labels == label] == number).sum() for number in (TRAIN, TEST, NO_SPLIT)
        )
        assert (left_out, train, test) == (1, 0, 0) if count == 1 else left_out == 0 and abs(train - test) == count % 2
    smaller = originals_of({point: count for point, count in counts.items() if point % 2} or counts)
    assert by_id(smaller, halved(smaller, seed=seed)).items() <= by_id(combined, numbers).items()


@given(seeds)
def test_the_halves_have_nothing_to_do_with_the_fractions(seed: int) -> None:
    """Of the validation images that chose a recipe, about half are test images; by half-2026 all of them are."""
    combined = originals_of({0x4E00 + number: 20 for number in range(50)})
    chosen = assign(combined, val=0.2, test=0.0, seed=seed) == VAL
    assert chosen.sum() == 200
    assert 70 <= (halved(combined, seed=seed)[chosen] == TEST).sum() <= 130  # 4 standard deviations of a fair coin
    assert np.all(halved_with_fractions_order(combined, seed=seed)[chosen] == TEST)


def test_half_2026_stays_what_it_was(originals_folder: Callable[..., Path]) -> None:
    """The test images of a published figure, by a digest of the table."""
    folder = originals_folder({"U+4E00": 20, "U+4E01": 5, "U+4E02": 1})
    split(folder, protocol="half-2026", overwrite=True)
    assert hashlib.sha256((folder / "split.csv").read_bytes()).hexdigest()[:16] == "9b9b74808405eafd"


def test_odd_images_fall_to_both_halves_alike() -> None:
    combined = originals_of({0x4E00 + number: 3 for number in range(4000)})
    numbers = halved(combined, seed=0)
    assert abs((numbers == TEST).sum() - 6000) < 100  # 3 standard deviations


@given(class_counts, fractions, seeds, st.randoms(use_true_random=False))
def test_official_and_font_images_keep_to_their_splits(
    counts: dict[int, int], fraction: tuple[float, float], seed: int, random: Random
) -> None:
    plain = originals_of(counts)
    official = np.array([random.choice([NO_SPLIT, TRAIN, TEST]) for _ in plain.ids], np.int8)
    origins = np.array([random.choice([0, 0, 0, 2]) for _ in plain.ids], np.int8)
    combined = replace(plain, official=official, origins=origins)
    for numbers in (
        assign(combined, val=fraction[0], test=fraction[1], seed=seed),
        folded(combined, folds=3, fold=seed % 3, seed=seed),
    ):
        assert np.all(numbers[official == TEST] == TEST)
        assert np.all(numbers[official == TRAIN] != TEST)
        assert np.all(numbers[(origins == 2) & (official != TEST)] == TRAIN)


def test_a_class_without_images_is_no_matter() -> None:
    plain = originals_of({0x4E00: 10, 0x4E02: 5})
    combined = replace(plain, labels=plain.labels * 2, classes=ClassMap.of([0x4E00, 0x4E01, 0x4E02]))
    divisions: tuple[Callable[[Originals], NDArray[np.int8]], ...] = (
        lambda one: assign(one, val=0.3, test=0.1, seed=0),
        lambda one: folded(one, folds=2, fold=1, seed=0),
        lambda one: halved(one, seed=0),
    )
    for divide in divisions:
        assert np.array_equal(divide(combined), divide(plain))


def test_a_half_split_is_packed_without_the_images_it_leaves_out(
    originals_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = originals_folder({"U+4E00": 20, "U+4E01": 5, "U+4E02": 1})
    split(folder, protocol="half", overwrite=True)
    assert "excluded: 1 images of 1 classes" in capsys.readouterr().out
    pack(folder, output=tmp_path / "set", block_size=125)
    verify(tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    assert manifest.classes == 3 and list(manifest.splits) == ["train", "test"]
    assert manifest.splits["train"].samples_per_class[2] == manifest.splits["test"].samples_per_class[2] == 0
    assert sum(part.samples for part in manifest.splits.values()) == 25


def test_a_split_of_an_earlier_version_is_packed_and_adopted(
    originals_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Its split.json calls the protocol `shares`."""
    folder, other = (originals_folder({"U+4E00": 20, "U+4E01": 5}, name=name) for name in ("old", "other"))
    text = (folder / "split.json").read_text()
    assert '"protocol": "fractions"' in text
    (folder / "split.json").write_text(text.replace('"fractions"', '"shares"'))
    pack(folder, output=tmp_path / "set", block_size=125)
    assert read_manifest(tmp_path / "set").history["split"]["protocol"] == "shares"
    split(other, from_=folder / "split.csv", overwrite=True)
    assert (other / "split.csv").read_bytes() == (folder / "split.csv").read_bytes()
    split(folder, overwrite=True)
    assert (folder / "split.json").read_text() == text


def test_a_split_is_adopted_by_ids(originals_folder: Callable[..., Path], tmp_path: Path) -> None:
    here, there = (originals_folder({"U+4E00": 20, "U+4E01": 5}, name=name) for name in ("here", "there"))
    split(here, protocol="half", seed=7, overwrite=True)
    header, *lines = (here / "split.csv").read_text().splitlines()
    (tmp_path / "moved.csv").write_text("\n".join([header, *reversed(lines)]) + "\n")
    split(there, from_=tmp_path / "moved.csv", overwrite=True)
    assert (there / "split.csv").read_bytes() == (here / "split.csv").read_bytes()
    facts = json.loads((there / "split.json").read_text())
    assert (facts["protocol"], facts["seed"], facts["rule"]) == ("file", None, "as a file has it, original by original")


def test_a_split_from_before_images_were_rendered_is_adopted_after_it(tmp_path: Path) -> None:
    """Rendered images are for training; those of a class that the split leaves out are left out too."""
    counts = {0x4E00: 6, 0x4E01: 3}
    combined = replace(originals_of(counts), origins=np.array([0, 0, 0, 0, 2, 2, 0, 2, 2], np.int8))
    names = ("train", "val", "test", "train", *2 * ("",), "none", *2 * ("",))
    lines = [f"{number:016x},{name}" for number, name in zip(combined.ids.tolist(), names, strict=True) if name]
    (tmp_path / "split.csv").write_text("\n".join(["id,split", *lines]) + "\n")
    expected = [TRAIN, VAL, TEST, TRAIN, TRAIN, TRAIN, NO_SPLIT, NO_SPLIT, NO_SPLIT]
    assert adopted(combined, tmp_path / "split.csv").numbers.tolist() == expected


def test_splits_of_other_originals_are_refused(originals_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, larger = originals_folder({"U+4E00": 5}), originals_folder({"U+4E00": 5, "U+4E01": 3}, name="larger")
    good = (folder / "split.csv").read_text()
    cases = {
        r"3 of 8 ids are not in \S+, for example \w{16}, \w{16}": (folder, (larger / "split.csv").read_text()),
        r"3 of 8 ids of \S+ are not in it, for example": (larger, good),
        r"6 lines for 5 ids: some occur twice": (folder, good + good.splitlines()[1] + "\n"),
        r"found split 'tset', expected one of train, val, test, none": (folder, good.replace("train", "tset")),
        r"columns \['a', 'b'\], expected \['id', 'split'\]": (folder, good.replace("id,split", "a,b")),
        r"1 values in line 2, expected 2": (folder, good.replace(",train", "", 1).replace(",val", "", 1)),
        r"columns nothing, expected": (folder, ""),
    }
    for message, (originals, text) in cases.items():
        before = (originals / "split.csv").read_bytes()
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(InputError, match=rf"other\.csv: {message}"):
            split(originals, from_=tmp_path / "other.csv", overwrite=True)
        assert (originals / "split.csv").read_bytes() == before
    with pytest.raises(InputError, match=r"missing\.csv: no such file; expected a split\.csv made by"):
        split(folder, from_=tmp_path / "missing.csv")  # told before that a split exists


def test_a_split_that_breaks_an_official_one_is_refused(originals_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = originals_folder({"U+4E00": 5})
    (tmp_path / "all.csv").write_text((folder / "split.csv").read_text().replace("val", "train"))
    combined = read_originals(folder)
    for official in (TEST, TRAIN):
        bound = replace(combined, official=np.where(np.arange(5) == 3, official, NO_SPLIT).astype(np.int8))
        text = (tmp_path / "all.csv").read_text().replace("train", "train" if official == TEST else "test")
        (tmp_path / "all.csv").write_text(text)
        with pytest.raises(
            InputError, match=f"1 images leave their official split, for example {bound.ids[3]:016x} is"
        ):
            adopted(bound, tmp_path / "all.csv")


def test_a_planted_leak_is_found(
    originals_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A split.csv cannot hold a leak, so a fake table does: one training original is in val too."""

    class Leaky(SplitTable):
        def rows(self, split: str) -> NDArray[np.int64]:
            train = super().rows("train")
            return train if split == "train" else np.append(super().rows(split), train[:1])

    folder = originals_folder({"U+4E00": 20})
    table = read_split(read_originals(folder))
    shared = read_originals(folder).ids[table.rows("train")[0]]
    monkeypatch.setattr("tools.commands.pack.read_split", lambda _: Leaky(numbers=table.numbers, facts=table.facts))
    pack(folder, output=tmp_path / "set", block_size=125)
    with pytest.raises(SystemExit):
        verify(tmp_path / "set")
    assert f"1 originals are in both train and val, for example {shared:016x}" in capsys.readouterr().out
