"""Version 5 of `dataset.json`: the shards of sets too large for it lie in files beside it."""

import hashlib
import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import (
    CorruptShard,
    Lineage,
    Manifest,
    MissingShard,
    OutputFolder,
    ShardSet,
    Split,
    read_manifest,
    shard_name,
    verify,
    write_manifest,
)
from shards.format import manifest_writer
from shards.format.layout import ALIGNMENT, block_bytes
from shards.format.manifest import MANIFEST_NAME, table_to_dict
from shards.format.manifest_writer import write_parts
from shards.format.shard_table import BlockColumns, ShardTable
from tests.shards.kinds import CLASSES_JSON, KINDS, Kind, drawn, manifest_of, write_kind
from tools.commands.push import push

MANY = 200_000
SPLITS = {"train": [drawn(125, 1), drawn(60, 2), drawn(40, 3)], "val": [drawn(30, 4)]}  # a shard each


def write_set(folder: Path, kind: Kind) -> None:
    """Several shards in a split."""
    splits: dict[str, Split] = {}
    with OutputFolder(folder) as partial:
        for name, blocks in SPLITS.items():
            shards = [write_kind(partial / shard_name(name, at), kind, [block]) for at, block in enumerate(blocks)]
            one = manifest_of(kind, {name: (shards[0], blocks)}).splits[name]
            splits[name] = replace(one, shards=tuple(shards))
        write_manifest(partial, replace(manifest_of(kind, {}), splits=splits), CLASSES_JSON)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every set were too large: a shard or two in each part."""
    monkeypatch.setattr(manifest_writer, "PART_BYTES", 300)
    monkeypatch.setattr(manifest_writer, "MOST_BYTES", 900)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", KINDS)
def test_a_set_in_parts_is_the_set(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "parts", kind)
    monkeypatch.undo()
    write_set(tmp_path / "whole", kind)
    found, whole = read_manifest(tmp_path / "parts"), read_manifest(tmp_path / "whole")
    assert json.loads((tmp_path / "parts" / MANIFEST_NAME).read_text())["version"] == 5
    assert [split.table for split in found.splits.values()] == [split.table for split in whole.splits.values()]
    assert max(len(split.parts) for split in found.splits.values()) > 1
    assert found.identity() == hashlib.sha256((tmp_path / "parts" / MANIFEST_NAME).read_bytes()).hexdigest()
    assert verify(tmp_path / "parts").problems == ()


@pytest.fixture
def parts(tmp_path: Path, small_parts: None) -> Path:
    assert small_parts is None
    write_set(tmp_path / "set", "none")
    return tmp_path / "set"


def test_it_is_pushed_and_streamed(parts: Path, bucket: str) -> None:
    push(parts, bucket)
    assert read_manifest(parts) == ShardSet(bucket).manifest and verify(bucket).problems == ()


def test_a_stray_part_is_noticed(parts: Path) -> None:
    (parts / "train.shards-00077.json").write_text("{}")
    assert [problem.split("/")[-1] for problem in verify(parts).problems] == [
        "train.shards-00077.json: not part of this set; remove it"
    ]


def test_damaged_and_missing_parts_are_refused(parts: Path) -> None:
    part = parts / "train.shards-00001.json"
    content = part.read_bytes()
    part.write_bytes(content.replace(b"0", b"1", 1))
    with pytest.raises(CorruptShard, match=r"shards-00001.json is not the file that it was made with"):
        read_manifest(parts)
    part.unlink()
    with pytest.raises(MissingShard, match=r"shards-00001.json: named in dataset.json but not there"):
        read_manifest(parts)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data["splits"]["train"]["shards"].update(parts=[]), "0 parts of split 'train', expected 1 to"),
        (lambda data: data["splits"]["train"]["shards"].update(parts=["0" * 64] * 2000), "2000 parts of split"),
        (lambda data: data["splits"]["train"]["shards"].update(parts=[7]), "parts has a value that is no text"),
        (lambda data: data["splits"]["train"]["shards"].update(name=[]), "that this version does not write"),
        (lambda data: data["splits"].update({"../x": data["splits"].pop("train")}), "parts of split '../x'"),
        (lambda data: data.update(version=4), "no field"),
    ],
)
def test_other_manifests_are_refused(parts: Path, change: Any, told: str) -> None:
    data = json.loads((parts / MANIFEST_NAME).read_text())
    change(data)
    (parts / MANIFEST_NAME).write_text(json.dumps(data))
    with pytest.raises(CorruptShard, match=told):
        read_manifest(parts)


def test_a_signed_part_that_says_other_things_is_refused(parts: Path) -> None:
    data = json.loads((parts / MANIFEST_NAME).read_text())
    part = parts / "train.shards-00000.json"
    part.write_text(json.dumps(json.loads(part.read_text()) | {"comment": ""}))
    data["splits"]["train"]["shards"]["parts"][0] = hashlib.sha256(part.read_bytes()).hexdigest()
    (parts / MANIFEST_NAME).write_text(json.dumps(data))
    with pytest.raises(CorruptShard, match="has fields that this version does not write"):
        read_manifest(parts)


def many() -> Manifest:
    """Shards of a block of 1,250 images each, of which there is only the description."""
    samples = np.full(MANY, 1250)
    size = block_bytes(samples)
    table = ShardTable(
        names=tuple(f"train-{number:07}.tar" for number in range(MANY)),
        bytes=size + ALIGNMENT,
        sha256=tuple(f"{number:064x}" for number in range(MANY)),
        table_sha256=(None,) * MANY,
        block_starts=np.arange(MANY + 1),
        blocks=BlockColumns(offset=np.zeros(MANY, np.int64), bytes=size, samples=samples, crc32=np.arange(MANY)),
    )
    columns = dict.fromkeys(("labels", "sources", "by_class"), "0" * 64)
    counts = (1250 * MANY,)
    split = Split(shards=table, samples_per_class=counts, originals_per_class=counts, columns=columns)
    return Manifest(name="many", licence="", lineage=Lineage.KNOWN, classes=1, seed=0, splits={"train": split})


def test_many_shards_are_opened_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/speed.md has the figures of a million."""
    monkeypatch.setattr(manifest_writer, "PART_BYTES", 8 << 20)
    manifest = write_parts(tmp_path, many())
    (tmp_path / MANIFEST_NAME).write_text(manifest.to_json())
    sizes = [path.stat().st_size for path in tmp_path.glob("train.shards-*.json")]
    assert len(sizes) > 3 and max(sizes) < manifest_writer.PART_BYTES
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read_manifest(tmp_path).splits["train"]
    assert (len(found.shards), found.samples, found.shards[MANY - 1].name) == (MANY, 1250 * MANY, "train-0199999.tar")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"
    assert table_to_dict(manifest, found.table.part(5, 7))["name"] == ["train-0000005.tar", "train-0000006.tar"]
    assert replace(found, parts=()).table.block_counts.sum() == MANY
