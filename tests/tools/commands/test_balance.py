"""balance: exactly so many training images of every class, each original used evenly, nothing held out is touched."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards import InputError, ShardSet
from tools.commands.balance import balance
from tools.commands.pack import pack
from tools.commands.verify import verify
from tools.ingest.originals import read_originals, read_split

COUNTS = {"U+4E00": 80, "U+4E01": 13, "U+4E02": 1, "U+FA1D": 2}
PER_CLASS = 30


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    """One class with more training originals than requested, three with fewer."""
    return originals_folder(COUNTS)


def balanced(folder: Path, output: Path, *, seed: int = 0, workers: int | None = None) -> ShardSet:
    balance(folder, per_class=PER_CLASS, output=output, block_size=125, shard_size=125, seed=seed, workers=workers)
    return ShardSet(output)


def test_train_has_as_many_of_every_class_and_originals_are_used_evenly(folder: Path, tmp_path: Path) -> None:
    shards = balanced(folder, tmp_path / "set")
    combined = read_originals(folder)
    rows = read_split(combined).rows("train")
    reader = shards.split("train")
    assert np.bincount(reader.labels()).tolist() == [PER_CLASS] * len(COUNTS)
    available = combined.counts(rows)
    for label, count in enumerate(available):
        uses = Counter(reader.sources()[reader.labels() == label].tolist())
        assert len(uses) == min(count, PER_CLASS) and max(uses.values()) - min(uses.values()) <= 1
        assert uses.keys() <= set(combined.ids[rows[combined.labels[rows] == label]].tolist())
    assert shards.manifest.splits["train"].originals_per_class == tuple(np.minimum(available, PER_CLASS))


def test_every_original_stands_once_unchanged_and_no_two_images_are_alike(folder: Path, tmp_path: Path) -> None:
    reader = balanced(folder, tmp_path / "set").split("train")
    combined = read_originals(folder)
    images, _, sources = reader.gather(np.arange(reader.samples))
    original = {number: pixels.tobytes() for number, pixels in zip(combined.ids.tolist(), combined.images, strict=True)}
    same = Counter(
        source for pixels, source in zip(images, sources.tolist(), strict=True) if pixels.tobytes() == original[source]
    )
    assert same.keys() == set(sources.tolist()) and set(same.values()) == {1}
    assert len({pixels.tobytes() for pixels in images}) == len(images)


def test_augmented_images_look_like_their_originals(folder: Path, tmp_path: Path) -> None:
    """The mean of a class's augmented images: noise images have the gray of their original, and no other property."""
    reader = balanced(folder, tmp_path / "set").split("train")
    images = reader.gather(np.flatnonzero(reader.labels() == 2)).images
    assert 90 < images.mean() < 135 and images.std(axis=(1, 2)).min() > 30


def test_what_is_held_out_is_stored_as_pack_stores_it(folder: Path, tmp_path: Path) -> None:
    shards = balanced(folder, tmp_path / "set")
    pack(folder, output=tmp_path / "packed", block_size=125, shard_size=125)
    assert (tmp_path / "set" / "val-00000.tar").read_bytes() == (tmp_path / "packed" / "val-00000.tar").read_bytes()
    assert shards.manifest.splits["val"] == ShardSet(tmp_path / "packed").manifest.splits["val"]


def test_each_shard_mixes_classes(folder: Path, tmp_path: Path) -> None:
    labels = balanced(folder, tmp_path / "set").split("train").labels()
    assert len(set(labels[:20].tolist())) == len(COUNTS) and np.any(np.diff(labels) < 0)


def test_bytes_do_not_depend_on_workers_but_on_the_seed(folder: Path, tmp_path: Path) -> None:
    one = balanced(folder, tmp_path / "one", workers=1)
    three = balanced(folder, tmp_path / "three", workers=3)
    other = balanced(folder, tmp_path / "other", seed=1)
    assert one.manifest == three.manifest
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "three" / path.name).read_bytes()
    assert other.manifest.splits["train"] != one.manifest.splits["train"]


def test_the_set_is_clean_and_records_how_it_was_made(folder: Path, tmp_path: Path) -> None:
    history = balanced(folder, tmp_path / "set", seed=5).manifest.history["balance"]
    verify(tmp_path / "set")
    assert (history["per_class"], history["seed"]) == (PER_CLASS, 5)
    assert history["policy"]["rotate_degrees"] > 0


def test_a_class_without_training_images_has_none(originals_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = originals_folder(COUNTS)
    hold_out(folder, "U+4E02")
    with pytest.warns(UserWarning, match=r"1 classes have no image to train on: U\+4E02"):
        shards = balanced(folder, tmp_path / "set")
    assert shards.manifest.splits["train"].samples_per_class == (PER_CLASS, PER_CLASS, 0, PER_CLASS)
    assert np.bincount(shards.split("train").labels(), minlength=4).tolist() == [PER_CLASS, PER_CLASS, 0, PER_CLASS]
    verify(tmp_path / "set")


def hold_out(folder: Path, label: str) -> None:
    """Give the images of one class to val."""
    combined = read_originals(folder)
    class_number = combined.classes.labels.index(label)
    table, facts = folder / "split.csv", folder / "split.json"
    header, *lines = table.read_text().splitlines()
    changed = [
        line.replace("train", "val") if row == class_number else line
        for line, row in zip(lines, combined.labels.tolist(), strict=True)
    ]
    table.write_text("\n".join([header, *changed]) + "\n")
    known = json.loads(facts.read_text())
    facts.write_text(json.dumps({**known, "split_sha256": hashlib.sha256(table.read_bytes()).hexdigest()}))


def test_the_original_recipe_augments_the_same_originals(folder: Path, tmp_path: Path) -> None:
    ours = balanced(folder, tmp_path / "ours").split("train")
    balance(folder, per_class=PER_CLASS, output=tmp_path / "theirs", block_size=125, shard_size=125, recipe="legacy")
    theirs = ShardSet(tmp_path / "theirs")
    assert theirs.manifest.history["balance"]["recipe"] == "legacy"
    reader, numbers = theirs.split("train"), np.arange(ours.samples)
    assert np.array_equal(reader.sources(), ours.sources())
    same = [
        np.array_equal(*pair) for pair in zip(reader.gather(numbers).images, ours.gather(numbers).images, strict=True)
    ]
    assert sum(same) == len(set(ours.sources().tolist()))


def test_augment_0_copies_originals(folder: Path, tmp_path: Path) -> None:
    balance(folder, per_class=PER_CLASS, output=tmp_path / "set", block_size=125, shard_size=125, augment=0)
    combined, reader = read_originals(folder), ShardSet(tmp_path / "set").split("train")
    images, _, sources = reader.gather(np.arange(reader.samples))
    rows = {number: row for row, number in enumerate(combined.ids.tolist())}
    assert np.array_equal(images, combined.images[[rows[source] for source in sources.tolist()]])


def test_nonsense_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--per-class 0: expected 1 or more"):
        balance(folder, per_class=0, output=tmp_path / "set")
    with pytest.raises(InputError, match=r"--augment 3: expected 0 to 2"):
        balance(folder, augment=3, output=tmp_path / "set")
    with pytest.raises(InputError, match="expected one of 125"):
        balance(folder, per_class=1, output=tmp_path / "set", block_size=7)
    assert not (tmp_path / "set").exists()
