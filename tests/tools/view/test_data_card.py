"""card: its figures are those of the data, of originals and of sets alike, and a leak is reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import DatasetCard

from tools.commands.balance import balance
from tools.commands.pack import pack
from tools.commands.show import show
from tools.ingest.originals import read_originals, read_split
from tools.view.contents import open_contents
from tools.view.data_card import moments, shared_originals

COUNTS = {"U+4E00": 60, "U+4E01": 7, "U+4E02": 1}


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    return originals_folder(COUNTS)


def written(location: Path, tmp_path: Path) -> str:
    show(str(location), kind="card", output=tmp_path / "card.md", overwrite=True)
    return (tmp_path / "card.md").read_text()


def test_figures_of_originals_and_of_sets_are_those_of_the_pixels(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set", block_size=125)
    combined = read_originals(folder)
    rows = read_split(combined).rows("train")
    pixels = combined.images[rows].astype(np.float64) / 255
    classes = len(np.unique(combined.labels[rows]))
    counts = f"| train | {len(rows)} | {len(rows)} | 0 | {classes} |"
    for location in (folder, tmp_path / "set"):
        text = written(location, tmp_path)
        assert f"{counts} {pixels.mean():.4f} | {pixels.std():.4f} |" in text
        assert "CC BY-SA 4.0" in text and "Lineage: known" in text
        assert "Of 68 images read, 68 were kept" in text and "- identical to another image: 0" in text
        assert "seed 0, val 0.2" in text and "Originals in more than one of train, val: 0." in text
    assert "sha256 of dataset.json: `" in written(tmp_path / "set", tmp_path)


def test_the_card_begins_with_the_hubs_metadata(folder: Path, tmp_path: Path) -> None:
    card: Any = DatasetCard(written(folder, tmp_path))
    found = card.data.to_dict()
    assert (found["license"], found["size_categories"]) == ("cc-by-sa-4.0", ["n<1K"])
    assert found["task_categories"] == ["image-classification"] and found["pretty_name"]


def test_classes_are_counted_by_their_images(folder: Path, tmp_path: Path) -> None:
    text = written(folder, tmp_path)
    assert "| 1 | 1 | 0 |" in text or "| 1 | 1 | 1 |" in text  # the single image is in train
    assert "| 0 | 0 | " in text and "| 1,001 or more | 0 | 0 |" in text


def test_a_balanced_set_records_how_it_was_made(folder: Path, tmp_path: Path) -> None:
    balance(folder, per_class=10, output=tmp_path / "set", block_size=125, shard_size=125)
    text = written(tmp_path / "set", tmp_path)
    assert "per_class 10" in text and "recipe policy" in text and "rotate_degrees 8.0" in text
    assert "| train | 30 | " in text


def test_originals_without_a_split_say_so(folder: Path, tmp_path: Path) -> None:
    (folder / "split.json").unlink()
    text = written(folder, tmp_path)
    assert "| originals | 68 | 68 | 0 | 3 |" in text and "## Split\n\nNone yet." in text


def test_a_leak_is_counted(folder: Path) -> None:
    train, val = open_contents(str(folder)).subsets
    assert shared_originals([train, val]) == 0
    leaking = val._replace(sources=np.concatenate([val.sources, train.sources[:3]]))
    assert shared_originals([train, leaking]) == 3


def test_moments_are_exact(folder: Path) -> None:
    subset = open_contents(str(folder)).subsets[0]
    images = np.concatenate(list(subset.chunks())) / 255
    assert np.allclose(moments(subset), (images.mean(), images.std()), rtol=1e-12)
