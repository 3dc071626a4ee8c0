"""convert: the same samples in every layout, in the same order, and back again to the same bytes."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kkanji.data.training_set import open_set
from shards import InputError, Manifest, Samples, read_manifest
from shards.store.store import open_store
from tools.commands.convert import convert
from tools.commands.pack import pack

ROOT = Path(__file__).parents[3]
SIZES: dict[str, Any] = {"block_size": 125, "shard_size": 125}
FORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "zstd": {"compression": "zstd"},
    "lz4": {"compression": "lz4"},
    "png": {"layout": "image"},
    "jpg": {"layout": "image", "image_format": "jpg"},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def packed(originals_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """301 samples: train in two shards, the last block and shard not full."""
    folder = originals_folder({"U+4E00": 150, "U+4E01": 90, "U+4E02": 1, "U+FA1D": 60}, val=0.1, test=0.1)
    pack(folder, output=tmp_path / "packed", **SIZES)
    return tmp_path / "packed"


def samples(location: Path, split: str) -> Samples:
    reader = open_set(location).split(split)
    return reader.collect(np.arange(reader.samples))


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".idx")}


def described(folder: Path) -> Manifest:
    """What a conversion keeps of a manifest."""
    manifest = read_manifest(folder)
    splits = {name: replace(split, shards=()) for name, split in manifest.splits.items()}
    history = {name: value for name, value in manifest.history.items() if name != "converted"}
    return replace(manifest, layout="packed", compression="none", splits=splits, history=history)


@pytest.mark.parametrize("name", FORMS)
def test_the_same_samples_in_every_form_and_back(packed: Path, tmp_path: Path, name: str) -> None:
    convert(str(packed), output=tmp_path / "there", **SIZES, **FORMS[name])
    assert described(tmp_path / "there") == described(packed)
    for split in ("train", "val", "test"):
        there, expected = samples(tmp_path / "there", split), samples(packed, split)
        assert np.array_equal(there.labels, expected.labels) and np.array_equal(there.sources, expected.sources)
        assert np.array_equal(there.images, expected.images) == (name != "jpg")
    assert (tmp_path / "there" / "index.json").read_bytes() == (packed / "index.json").read_bytes()
    convert(str(tmp_path / "there"), output=tmp_path / "back", **SIZES)
    if name != "jpg":
        assert tars(tmp_path / "back") == tars(packed)
    assert len(read_manifest(tmp_path / "back").history["converted"]) == 2


def test_history_records_what_was_done(packed: Path, tmp_path: Path) -> None:
    convert(str(packed), output=tmp_path / "there", **SIZES, **FORMS["jpg"])
    (step,) = read_manifest(tmp_path / "there").history["converted"]
    assert step["from"] == read_manifest(packed).identity() and step["from_layout"] == "packed"
    assert step["layout"] == "image" and step["image_format"] == "jpg" and step["jpeg_quality"] == 90
    assert read_manifest(packed).history.items() <= read_manifest(tmp_path / "there").history.items()


def test_packing_compressed_is_packing_and_converting(packed: Path, tmp_path: Path) -> None:
    convert(str(packed), output=tmp_path / "converted", **SIZES, **FORMS["zstd"])
    pack(tmp_path / "originals", output=tmp_path / "direct", **SIZES, compression="zstd")
    assert tars(tmp_path / "direct") == tars(tmp_path / "converted")
    assert read_manifest(tmp_path / "direct").splits == read_manifest(tmp_path / "converted").splits


@pytest.mark.parametrize("name", ["zstd", "png"])
def test_bytes_do_not_depend_on_workers_hash_seed_clock_or_umask(packed: Path, tmp_path: Path, name: str) -> None:
    convert(str(packed), output=tmp_path / "one", workers=1, **SIZES, **FORMS[name])
    convert(str(packed), output=tmp_path / "four", workers=4, **SIZES, **FORMS[name])
    command = [sys.executable, "-m", "tools", "convert", str(packed), "--output", str(tmp_path / "other")]
    options = [f"--{key.replace('_', '-')}={value}" for key, value in {**SIZES, **FORMS[name]}.items()]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    subprocess.run([*command, *options], cwd=ROOT, env=environment, check=True, umask=0o077, stdout=subprocess.DEVNULL)
    contents = [{path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("one", "four", "other")]
    assert contents[0] == contents[1] == contents[2] and len(contents[0]) > 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "image", "compression": "zstd"}, "--compression zstd: for --layout packed"),
        ({"layout": "image", "shard_size": 62_500}, "--shard-size 62500: expected 50000 at most for --layout image"),
        ({"block_size": 100}, "--block-size 100: expected one of"),
        ({"workers": 0}, "--workers 0: expected 1 or more"),
    ],
)
def test_nonsense_is_refused(packed: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(str(packed), output=tmp_path / "there", **options)
    assert not (tmp_path / "there").exists()


def test_a_set_that_is_damaged_is_not_converted(packed: Path, tmp_path: Path) -> None:
    convert(str(packed), output=tmp_path / "zstd", **SIZES, **FORMS["zstd"])
    path = tmp_path / "zstd" / "train-00000.tar"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with (
        pytest.warns(RuntimeWarning, match="making it again"),
        pytest.raises(InputError, match=r"train-00000.tar: block 000000 at byte 0 has crc32"),
    ):
        convert(str(tmp_path / "zstd"), output=tmp_path / "there", **SIZES)
    assert not (tmp_path / "there").exists()


def test_a_set_in_a_bucket_is_converted(packed: Path, tmp_path: Path, bucket: str) -> None:
    convert(str(packed), output=tmp_path / "lz4", **SIZES, **FORMS["lz4"])
    store = open_store(bucket)
    for path in (tmp_path / "lz4").iterdir():
        store.upload(path.name, path)
    convert(bucket, output=tmp_path / "back", **SIZES)
    assert tars(tmp_path / "back") == tars(packed)
