"""arrays: what the set holds, in the files and types of the legacy project, wherever the set is stored and how."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards import InputError, ShardSet
from tools.commands import arrays as module
from tools.commands.arrays import arrays
from tools.commands.convert import convert
from tools.commands.pack import pack
from tools.commands.push import push


@pytest.fixture
def shards(originals_folder: Callable[..., Path], tmp_path: Path) -> Path:
    folder = originals_folder({"U+3042": 30, "U+4E00": 12})
    pack(folder, output=tmp_path / "shards", block_size=125)
    return tmp_path / "shards"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Several to a split, the last one shorter."""
    monkeypatch.setattr(module, "CHUNK", 10)
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "cache"))


def expect_equal(folder: Path, shards: Path, split: str) -> None:
    reader = ShardSet(shards).split(split)
    expected = reader.gather(np.arange(reader.samples))
    for name, values in expected._asdict().items():
        found = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        assert np.array_equal(found, values)
    assert np.load(folder / "images.npy").dtype == np.uint8 and np.load(folder / "labels.npy").dtype == np.int64


@pytest.mark.parametrize("split", ["train", "val"])
def test_arrays_hold_what_the_set_holds(shards: Path, tmp_path: Path, split: str) -> None:
    arrays(str(shards), split=split, output=tmp_path / "arrays")
    expect_equal(tmp_path / "arrays", shards, split)
    classes = json.loads((tmp_path / "arrays" / "index.json").read_text())
    assert classes == {"codepoint_to_id": {"あ (U+3042)": 0, "一 (U+4E00)": 1}}


@pytest.mark.parametrize("options", [{"layout": "image"}, {"compression": "zstd"}, {"compression": "lz4"}])
def test_of_any_layout(shards: Path, tmp_path: Path, options: dict[str, str]) -> None:
    convert(str(shards), output=tmp_path / "other", block_size=125, **options)  # type: ignore[arg-type]
    arrays(str(tmp_path / "other"), output=tmp_path / "arrays")
    expect_equal(tmp_path / "arrays", shards, "train")


def test_from_a_bucket(shards: Path, tmp_path: Path, bucket: str) -> None:
    push(shards, bucket)
    arrays(bucket, output=tmp_path / "arrays")
    expect_equal(tmp_path / "arrays", shards, "train")


def test_all_or_nothing(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no split 'test'"):
        arrays(str(shards), split="test", output=tmp_path / "arrays")
    monkeypatch.setattr(module, "CHUNK", None)
    with pytest.raises(TypeError):
        arrays(str(shards), output=tmp_path / "arrays")
    assert not (tmp_path / "arrays").exists() and not list(tmp_path.glob(".*"))


def test_nothing_is_replaced_without_overwrite(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "mine").touch()
    with pytest.raises(InputError, match="already exists and is not empty"):
        arrays(str(shards), output=tmp_path / "arrays")
    (tmp_path / "arrays" / "mine").unlink()
    arrays(str(shards), output=tmp_path / "arrays")
    arrays(str(shards), output=tmp_path / "arrays", split="val", overwrite=True)
    expect_equal(tmp_path / "arrays", shards, "val")
