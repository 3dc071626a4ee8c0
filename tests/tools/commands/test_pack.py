"""pack: what comes out is what went in, in bytes that depend on nothing else; verify proves it or says what is not."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kkanji.classes import read_class_map
from shards import (
    CorruptShard,
    InputError,
    Lineage,
    OutputFolder,
    Samples,
    ShardSet,
    read_manifest,
    write_manifest,
    write_shard,
)
from shards.format.manifest import Manifest, Split
from tools.commands.pack import pack
from tools.commands.split import split
from tools.commands.verify import verify
from tools.ingest.originals import SPLITS, read_originals, read_split

ROOT = Path(__file__).parents[3]
COUNTS = {"U+4E00": 150, "U+4E01": 90, "U+4E02": 1, "U+FA1D": 60}
LAYOUT = {"block_size": 125, "shard_size": 125}


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    """301 originals: train in two shards or more, val and test in one."""
    return originals_folder(COUNTS, val=0.2, test=0.1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_original_is_there_once_and_unchanged(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set", block_size=125, shard_size=125)
    combined, shards = read_originals(folder), ShardSet(tmp_path / "set")
    table = read_split(combined)
    assert set(shards.manifest.splits) == set(SPLITS) and len(shards.manifest.splits["train"].shards) == 2
    for name in SPLITS:
        reader, rows = shards.split(name), table.rows(name)
        images, labels, sources = reader.gather(np.arange(reader.samples))
        stored, expected = np.argsort(sources), rows[np.argsort(combined.ids[rows])]
        assert np.array_equal(sources[stored], combined.ids[expected])
        assert np.array_equal(labels[stored], combined.labels[expected])
        assert np.array_equal(images[stored], combined.images[expected])
        assert np.any(np.diff(labels) < 0), "stored class by class"
    assert read_class_map(tmp_path / "set") == combined.classes


def test_manifest_records_how_the_set_was_made(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set", block_size=125, shard_size=250, seed=3)
    manifest = read_manifest(tmp_path / "set")
    assert (manifest.name, manifest.lineage, manifest.classes, manifest.seed) == ("Kuzushiji-Kanji", "known", 4, 3)
    assert "CC BY-SA 4.0" in manifest.licence
    assert manifest.history["pack"] == {"block_size": 125, "shard_size": 250, "seed": 3}
    assert manifest.history["split"]["val"] == 0.2 and manifest.history["split"]["images"]["val"] > 0
    assert manifest.history["originals"]["counts"]["kept"] == 301
    for split_name in manifest.splits.values():
        assert split_name.samples_per_class == split_name.originals_per_class
    assert str(tmp_path) not in manifest.to_json()


def test_bytes_do_not_depend_on_workers_hash_seed_or_umask(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "one", workers=1, block_size=125, shard_size=125)
    pack(folder, output=tmp_path / "four", workers=4, block_size=125, shard_size=125)
    command = [sys.executable, "-m", "tools", "pack", str(folder), "--output", str(tmp_path / "other")]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    options = ["--block-size", "125", "--shard-size", "125"]
    subprocess.run([*command, *options], cwd=ROOT, env=environment, check=True, umask=0o077)
    assert contents(tmp_path / "one") == contents(tmp_path / "four") == contents(tmp_path / "other")


def test_another_seed_stores_another_order(folder: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        pack(folder, output=tmp_path / str(seed), seed=seed)
    first, second = (ShardSet(tmp_path / str(seed)).split("train").sources() for seed in (0, 1))
    assert not np.array_equal(first, second) and set(first) == set(second)


def test_tar_and_numpy_read_a_shard(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set", block_size=125, shard_size=125)
    with tarfile.open(tmp_path / "set" / "train-00000.tar") as archive:
        assert archive.getnames() == [f"000000.{kind}.npy" for kind in ("images", "labels", "sources")]
        archive.extractall(tmp_path / "members", filter="data")
    assert np.load(tmp_path / "members" / "000000.images.npy").shape == (125, 64, 64)


def test_without_a_fitting_split_nothing_is_packed(folder: Path, tmp_path: Path) -> None:
    table, facts = folder / "split.csv", folder / "split.json"
    lines, fact_text = table.read_text(), facts.read_text()
    table.write_text(lines.replace("train", "val", 1))
    with pytest.raises(InputError, match=r"split.csv: sha256 \w+, expected \w+: changed since it was written"):
        pack(folder, output=tmp_path / "set")
    facts.unlink()
    with pytest.raises(InputError, match=r"split.json: No such file or directory; it is written last by `kkanji"):
        pack(folder, output=tmp_path / "set")
    facts.write_text(fact_text[:-9])
    with pytest.raises(InputError, match=r"split.json: not JSON .* run `kkanji split .* --overwrite`"):
        pack(folder, output=tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_split_of_other_originals_is_refused(originals_folder: Callable[..., Path], tmp_path: Path) -> None:
    one, two = originals_folder({"U+4E00": 20}, name="one"), originals_folder({"U+4E00": 21}, name="two")
    for name in ("split.csv", "split.json"):
        (two / name).write_bytes((one / name).read_bytes())
    with pytest.raises(InputError, match=r"split.csv: not a split of these originals; run `kkanji split"):
        pack(two, output=tmp_path / "set")
    split(two, overwrite=True)
    pack(two, output=tmp_path / "set")


def test_damaged_originals_are_refused(folder: Path, tmp_path: Path) -> None:
    images = folder / "images.npy"
    data = bytearray(images.read_bytes())
    data[5000] ^= 1
    images.write_bytes(data)
    with pytest.raises(
        InputError,
        match=r"images.npy: sha256 \w+, expected \w+: damaged or replaced; move .* elsewhere and combine again",
    ):
        pack(folder, output=tmp_path / "set")
    images.write_bytes(data[:-1])
    with pytest.raises(InputError, match="combine again"):
        pack(folder, output=tmp_path / "set")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 100}, "--block-size 100: expected one of 125, 250, 625, 1250"),
        ({"shard_size": 2000}, "--shard-size 2000: expected a multiple of --block-size 1250"),
        ({"shard_size": 0}, "--shard-size 0: expected a multiple"),
        ({"workers": 0}, "--workers 0: expected 1 or more"),
        ({"seed": -1}, "--seed -1: expected 0 or more"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack(tmp_path, output=tmp_path / "set", **options)  # type: ignore[arg-type]


def test_an_error_while_writing_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("tools.build.packing.write_shard", fail)
    with pytest.raises(OSError, match="Input/output error"):
        pack(folder, output=tmp_path / "set", block_size=125, shard_size=125)
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".*"))


def test_a_set_that_does_not_fit_is_refused_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(
        InputError, match=r"set: \d+ images take 0\.\d+ GB, 0\.000 GB are free; choose another --output"
    ):
        pack(folder, output=tmp_path / "set")
    assert not list(tmp_path.glob("*set*"))


def test_verify_says_what_it_checked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(folder, output=tmp_path / "set")
    capsys.readouterr()
    verify(tmp_path / "set")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/set: Kuzushiji-Kanji, 4 classes, lineage known"
    assert f"  sha256 of dataset.json: {read_manifest(tmp_path / 'set').identity()}" in lines
    assert "checked 301 samples" in lines[-2] and lines[-1] == "clean"


def problems_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        verify(folder)
    assert caught.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert "clean" not in lines
    return [line.removeprefix("problem: ") for line in lines if line.startswith("problem: ")]


def test_verify_finds_a_flipped_bit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(folder, output=tmp_path / "set")
    shard = tmp_path / "set" / "val-00000.tar"
    data = bytearray(shard.read_bytes())
    data[9999] ^= 4
    shard.write_bytes(data)
    first, second = problems_of(tmp_path / "set", capsys)
    assert first.startswith(f"{shard}: block 000000 at byte 0: crc32 ") and second.startswith(f"{shard}: sha256 ")


def test_verify_finds_a_planted_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = np.zeros((2, 64, 64), np.uint8), np.zeros(2, np.int32)
    with OutputFolder(tmp_path / "set") as folder:
        splits = {
            name: Split(
                shards=(
                    write_shard(folder / f"{name}-00000.tar", [Samples(images, labels, np.array(ids, np.uint64))]),
                ),
                samples_per_class=(2,),
                originals_per_class=(2,),
            )
            for name, ids in (("train", (7, 8)), ("val", (8, 9)))
        }
        manifest = Manifest(name="x", licence="x", lineage=Lineage.KNOWN, classes=1, seed=0, splits=splits)
        write_manifest(folder, manifest, json.dumps({"codepoint_to_id": {"一 (U+4E00)": 0}}))
    found = problems_of(tmp_path / "set", capsys)
    assert found == ["1 originals are in both train and val, for example 0000000000000008"]


def test_verify_finds_another_class_map(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(folder, output=tmp_path / "set")
    (tmp_path / "set" / "index.json").write_text('{"codepoint_to_id": {"一 (U+4E00)": 0}}')
    assert problems_of(tmp_path / "set", capsys)[0].endswith("index.json has 1 classes, expected 4; pack the set again")
    (tmp_path / "set" / "index.json").unlink()
    assert "missing; it is the class map of a shard set" in problems_of(tmp_path / "set", capsys)[0]


def test_verify_refuses_what_is_no_set(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"originals, no shard set; make one with `kkanji pack [^`]*`$"):
        verify(folder)
    (folder / "split.json").unlink()
    with pytest.raises(InputError, match=r"originals, no shard set; make one with `kkanji split .*` and `kkanji pack"):
        verify(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no dataset.json, so this is not a complete shard set"):
        verify(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder; expected a shard set"):
        verify(tmp_path / "missing")
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(CorruptShard, match="not a shard set"):
        verify(folder)
