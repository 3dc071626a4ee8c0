"""The tools on the real archive: the figures that its description promises."""

import json
from pathlib import Path

import pytest

from shards import read_manifest
from tools.combine import combine
from tools.pack import pack
from tools.split import split
from tools.verify import verify


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:1 classes have no image left")
def test_the_real_archive_becomes_a_clean_set(real_archive: Path, tmp_path: Path) -> None:
    combine((real_archive,), output=tmp_path / "originals")
    facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
    dropped = {"blank": 25, "identical": 0, "conflict": 0}
    assert facts["counts"] == {"read": 113_796, "kept": 113_771, "classes": 3_831, **dropped}
    assert facts["classes_without_images"] == ["U+55DF"]  # its only image is blank
    split(tmp_path / "originals", val=0.2)
    pack(tmp_path / "originals", output=tmp_path / "set")
    verify(tmp_path / "set")
    splits = read_manifest(tmp_path / "set").splits
    assert abs(splits["val"].samples / 113_771 - 0.2) < 0.01
    assert min(splits["train"].samples_per_class) == 1
