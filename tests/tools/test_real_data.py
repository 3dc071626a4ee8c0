"""The tools on the real archive: the figures that its description promises."""

import json
from pathlib import Path

import pytest

from kkanji.classes import read_class_map
from shards import read_manifest
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.split import split
from tools.commands.verify import verify


@pytest.mark.real_data
def test_the_real_archive_becomes_a_clean_set(real_originals: Path, tmp_path: Path) -> None:
    facts = json.loads((real_originals / "originals.json").read_text())
    dropped = {"blank": 25, "identical": 0, "conflict": 0}
    assert facts["counts"] == {"read": 113_796, "kept": 113_771, "classes": 3_832, **dropped}
    assert facts["classes_without_images"] == ["U+55DF"]  # its only image is blank
    split(real_originals, val=0.2)
    pack(real_originals, output=tmp_path / "set")
    verify(tmp_path / "set")
    splits = read_manifest(tmp_path / "set").splits
    assert abs(splits["val"].samples / 113_771 - 0.2) < 0.01
    classes = read_class_map(tmp_path / "set")
    counts = dict(zip(classes.labels, splits["train"].samples_per_class, strict=True))
    assert counts.pop("U+55DF") == 0 and min(counts.values()) == 1


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:1 classes have no image left")
def test_kanji_and_kmnist_together_are_a_clean_set(
    real_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    combine((real_archive, real_archive.parent / "kmnist"), output=tmp_path / "originals")
    facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
    assert facts["counts"]["classes"] == 3_842 and facts["official"]["test"]["read"] == 10_000
    split(tmp_path / "originals", val=0.2)
    pack(tmp_path / "originals", output=tmp_path / "set")
    verify(tmp_path / "set")
    assert capsys.readouterr().out.endswith("clean\n")
    assert read_manifest(tmp_path / "set").splits["test"].samples == facts["official"]["test"]["kept"]


@pytest.mark.real_data
def test_the_halves_of_the_real_archive_have_the_published_classes(real_originals: Path) -> None:
    split(real_originals, protocol="half")
    facts = json.loads((real_originals / "split.json").read_text())
    assert facts["classes"] == {"train": 3_017, "val": 0, "test": 3_017}
    assert sum(facts["images"].values()) == 113_771 - 814
