"""The ways in which scans differ from the data, and what is measured in each."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.scans.before import prepared_before
from benchmarks.scans.scans import scans
from benchmarks.scans.ways import WAYS
from benchmarks.table import table_of
from kkanji.inference.image_files import read_character
from shards import InputError

ROOT = Path(__file__).parents[3]
TRAINED = ROOT / "models" / "kuzushiji-kanji-evaluated"
# Where the character itself is another one, or a part of it is gone.
CHANGED = {"turned 8 degrees", "turned 15 degrees", "turned 90 degrees", "photo at an angle 12 %"}
CHANGED |= {
    "sheet askew on black",
    "rule at the right",
    "cut off 10 % at the left",
    "squeezed to half width",
    "frame of ink",
    "neighbours 10 %",
    "neighbours 20 %",
}


@pytest.fixture(scope="module")
def characters() -> NDArray[np.uint8]:
    """Three characters of the sample, cropped to their ink as the data is, uint8 [3, 64, 64]."""
    files = (sorted((ROOT / "sample" / "kkanji2" / name).iterdir())[2] for name in ("U+4E16", "U+4E2D", "U+4E09"))
    large = (Image.open(file).resize((200, 200)) for file in files)
    cropped = [np.asarray(image.crop(image.point(lambda level: 255 * (level > 128)).getbbox())) for image in large]
    return np.stack([read_character(_png(255 - each), "x") for each in cropped])


def _png(levels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", WAYS)
def test_each_way_makes_a_picture_in_which_the_character_is_found(characters: NDArray[np.uint8], name: str) -> None:
    picture = WAYS[name](characters, np.random.default_rng(0))
    assert picture == WAYS[name](characters, np.random.default_rng(0))
    found = read_character(picture, name)
    likeness = np.corrcoef(found.ravel(), characters[0].ravel())[0, 1]
    assert likeness > (0.1 if name in CHANGED else 0.8)


def test_every_other_way_changes_the_file(characters: NDArray[np.uint8]) -> None:
    pictures = {way(characters, np.random.default_rng(0)) for way in WAYS.values()}
    assert len(pictures) == len(WAYS)


def test_a_model_is_measured_on_characters_that_it_was_not_trained_on(tiny_set: Path, tmp_path: Path) -> None:
    output = tmp_path / "scans.json"
    scans(data=str(tiny_set), checkpoint=TRAINED, images=2, only=("brown paper", "turned 90 degrees"), output=output)
    result = json.loads(output.read_text())
    brown, turned, mean, least = result["rows"]
    assert {mean["top-1"], least["top-1"]} == {brown["top-1"]} and mean["before"] == brown["before"]
    assert brown["lowest"] <= brown["top-1"] <= brown["highest"] and brown["with forms"] >= brown["top-1"]
    assert turned["name"] == "turned 90 degrees" and brown["ms an image"] > 0
    assert table_of(output)[0].startswith("|  | before | top-1 |")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("upside down",)}, "--only upside down: no such way; expected some of as in the data,"),
        ({"split": "other"}, "--split other: .* has train, val"),
        ({"images": 10**6}, "--images 1000000: expected 1 to"),
        ({"checkpoint": Path("nowhere")}, "nowhere: trained on images of val, or nothing says that it was not"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_set: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scans(data=str(tiny_set), **({"images": 2} | options))  # type: ignore[arg-type]


def test_the_result_is_that_of_all_ways() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "scans.json").read_text())
    assert [row["name"] for row in result["rows"][: len(WAYS)]] == list(WAYS)


@pytest.mark.parametrize(
    ("way", "is_kept"), [("dark on light", True), ("brown paper", True), ("black surround", False)]
)
def test_the_first_versions_preparation_is_kept_to_compare_with(
    characters: NDArray[np.uint8], way: str, is_kept: bool
) -> None:
    found = prepared_before(WAYS[way](characters, np.random.default_rng(0)))
    assert found.shape == (64, 64)
    assert (np.corrcoef(found.ravel(), characters[0].ravel())[0, 1] > 0.8) == is_kept
