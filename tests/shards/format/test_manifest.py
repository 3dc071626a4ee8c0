"""dataset.json: whatever is in the file, reading it gives a set that adds up or an error that names the file."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import (
    Block,
    CorruptShard,
    Manifest,
    MissingShard,
    Samples,
    Shard,
    ShardError,
    ShardSet,
    Split,
    StorageError,
    read_manifest,
)
from shards.format.manifest import MANIFEST_NAME
from shards.format.manifest_reader import parse_manifest
from shards.store.store import open_store
from tests.shards.kinds import Kind, as_older, drawn, without_columns, write_set_of

MakeSamples = Callable[..., Samples]
WriteSet = Callable[..., Path]
Json = Any
Steps = tuple[str | int, ...]


@pytest.fixture(scope="module")
def folder(make_samples: MakeSamples, write_set: WriteSet) -> Path:
    """A set whose manifest the tests overwrite."""
    return write_set({"train": make_samples(6), "val": make_samples(6, 1)}, [[2, 1], [3]])


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


@pytest.fixture(scope="module")
def older(manifest: Manifest) -> Manifest:
    """The same set as releases before columns wrote it."""
    return without_columns(manifest)


@pytest.fixture
def valid(older: Manifest) -> Json:
    return json.loads(older.to_json())


@pytest.fixture
def valid_4(manifest: Manifest) -> Json:
    return json.loads(manifest.to_json())


def write(folder: Path, content: Json) -> None:
    """Put JSON in the place of the set's manifest."""
    (folder / MANIFEST_NAME).write_text(json.dumps(content), encoding="utf-8")


def change(data: Json, steps: Steps, value: Json) -> Json:
    """A copy of data with the node at these steps replaced."""
    data = copy.deepcopy(data)
    node = data
    for step in steps[:-1]:
        node = node[step]
    node[steps[-1]] = value
    return data


def remove(data: Json, steps: Steps) -> Json:
    """A copy of data without the node at these steps."""
    data = copy.deepcopy(data)
    node = data
    for step in steps[:-1]:
        node = node[step]
    del node[steps[-1]]
    return data


def nodes(data: Json, steps: Steps = ()) -> list[Steps]:
    """The way to every node of a JSON value."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in inner for found in [(*steps, key), *nodes(value, (*steps, key))]]


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(CorruptShard, match=message) as caught:
        read_manifest(folder)
    assert str(caught.value).startswith(f"{folder / MANIFEST_NAME}: ")
    assert str(caught.value).endswith("make the set again with `kkanji pack`")


def test_round_trip(manifest: Manifest, older: Manifest) -> None:
    for each in (manifest, older):
        again = parse_manifest(each.to_json())
        assert again == each
        assert again.identity() == each.identity()
        assert each.splits["train"].samples == 6
    assert manifest != older and manifest.identity() != older.identity()


def test_round_trip_of_any_text_and_history(manifest: Manifest) -> None:
    history = {"くずし字": [1, 2.5, None, {"deep": True}]}
    other = replace(manifest, name="崩し字 \"'\n\0", licence="", seed=1 << 64, history=history)
    assert parse_manifest(other.to_json()) == other
    assert other.identity() != manifest.identity()


def test_a_manifest_without_splits_or_samples_is_one(manifest: Manifest) -> None:
    empty = replace(manifest.splits["train"], shards=(), samples_per_class=(0,) * 7, originals_per_class=(0,) * 7)
    for splits in ({}, {"train": empty}, {"train": replace(empty, columns={})}):
        assert parse_manifest(replace(manifest, splits=splits).to_json()).splits == splits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b'{"format": "kkanji-shards", ', "Expecting property name"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"[]", "found list, expected a JSON object"),
        (b'"kkanji-shards"', "found str, expected a JSON object"),
        (b'{"format": "mds"}', "not a shard set: expected an object with format 'kkanji-shards'"),
        (b'{"format": "kkanji-shards"}', "no field 'version'"),
        (b"[" * 100_000, "recursion"),
        (b'{"format": ' + b"9" * 5000 + b"}", "for integer string"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    assert_refused(tmp_path, message)


def test_a_manifest_cut_at_any_length(manifest: Manifest, older: Manifest) -> None:
    for text, length in [(each, size) for each in map(to_text, (manifest, older)) for size in range(len(each))]:
        with pytest.raises(ValueError):
            parse_manifest(text[:length])


def to_text(manifest: Manifest) -> str:
    return manifest.to_json().rstrip()


def test_a_manifest_that_the_disk_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shards.format.manifest_reader.read_bounded", refuse)
    with pytest.raises(StorageError, match=r"dataset.json: Permission denied"):
        read_manifest(folder)


SHARD: Steps = ("splits", "train", "shards", 0)
BLOCK: Steps = (*SHARD, "blocks", 1)


@pytest.mark.parametrize(
    ("steps", "value", "message"),
    [
        (("version",), 6, r"format version 6, but this kkanji reads versions \(1, 2, 3, 4, 5\)"),
        (("version",), 2, "no field 'layout'"),
        (("version",), 3, "no field 'layout'"),
        (("version",), 4, "no field 'layout'"),
        (("splits", "train", "drawn_per_class"), [0] * 7, "that this version does not write"),
        (("image_shape",), [32, 32], r"images of shape \[32, 32\], expected \[64, 64\]"),
        (("lineage",), "perhaps", "lineage 'perhaps', expected 'known' or 'unknown'"),
        (("lineage",), [], r"lineage \[\]"),
        (("name",), None, "name is None, expected str"),
        (("name",), "\ud800", "can't encode character"),
        (("seed",), 1.5, "seed is 1.5, expected int"),
        (("seed",), True, "seed is True, expected int"),
        (("history",), [], r"history is \[\], expected dict"),
        (("splits",), [], r"splits is \[\], expected dict"),
        (("classes",), 0, "classes is 0"),
        (("classes",), -1, "classes is -1, expected a whole number"),
        (("classes",), 6, "counts per class do not add up"),
        (("splits", "train", "samples"), 7, "fields that contradict"),
        (("splits", "train", "block_fields"), ["bytes", "offset", "samples", "crc32"], "fields that contradict"),
        (("splits", "train", "comment"), "", "that this version does not write"),
        (("splits", "train", "samples_per_class"), [6], "counts per class do not add up to 6 samples"),
        (("splits", "train", "samples_per_class"), [7, -1, 0, 0, 0, 0, 0], "samples_per_class is -1"),
        (("splits", "train", "samples_per_class"), "1234567", "samples_per_class is '1'"),
        (("splits", "train", "originals_per_class"), [0, 0, 0, 0, 0, 0], "shorter|longer"),
        (("splits", "train", "originals_per_class"), [9, 0, 0, 0, 0, 0, 0], "more originals than images"),
        ((*SHARD, "name"), "../train-00000.tar", "not a plain file name"),
        ((*SHARD, "name"), "/etc/passwd", "not a plain file name"),
        ((*SHARD, "name"), "..", "not a plain file name"),
        ((*SHARD, "name"), ".hidden.tar", "not a plain file name"),
        ((*SHARD, "name"), "a\0.tar", "not a plain file name"),
        ((*SHARD, "name"), "train-00000.idx", "not a plain file name"),
        ((*SHARD, "name"), "", "not a plain file name"),
        ((*SHARD, "name"), "train-00001.tar", "4 shards but 3 names"),
        ((*SHARD, "name"), "val-00000.tar", "4 shards but 3 names"),
        ((*SHARD, "sha256"), "0" * 63, "expected 64 hexadecimal digits"),
        ((*SHARD, "bytes"), 4096, "4096 bytes, expected"),
        ((*SHARD, "bytes"), 1 << 64, "bytes is 18446744073709551616"),
        ((*SHARD, "blocks"), [], "do not add up to 3 samples"),
        ((*BLOCK, 0), 0, "block at 0 does not fit"),  # overlaps the first one
        ((*BLOCK, 0), -4096, "offset is -4096"),
        ((*BLOCK, 0), 1 << 40, "does not fit the packed layout"),
        ((*BLOCK, 1), 1 << 40, "does not fit the packed layout"),
        ((*BLOCK, 2), 0, "do not add up to 5 samples"),
        ((*BLOCK, 2), 1 << 70, "samples is 1180591620717411303424"),
        ((*BLOCK, 3), 0.0, "crc32 is 0.0"),
        (BLOCK, [0, 1, 2], "shorter|longer"),
        (BLOCK, [0, 1, 2, 3, 4], "do not add up to 7 samples"),
        (BLOCK, None, "iterable"),
    ],
)
def test_each_kind_of_damage(folder: Path, valid: Json, steps: Steps, value: Json, message: str) -> None:
    write(folder, change(valid, steps, value))
    assert_refused(folder, message)


SHARDS: Steps = ("splits", "train", "shards")
COLUMNS: Steps = ("splits", "train", "columns")
CHECKSUM = "0" * 8


@pytest.mark.parametrize(
    ("steps", "value", "message"),
    [
        (("version",), 3, "indices"),
        (("version",), 2, "string indices|list indices"),
        (("splits", "train", "samples"), 7, "fields that contradict"),
        (("splits", "train", "rendered_per_class"), [9] * 7, "more rendered images than originals"),
        (("splits", "train", "drawn_per_class"), [], "that this version does not write"),
        (COLUMNS, {}, "expected sha256 of the columns labels, sources, by_class"),
        (COLUMNS, None, "columns is None, expected dict"),
        ((*COLUMNS, "labels"), "0" * 63, "expected sha256 of the columns"),
        ((*COLUMNS, "labels"), 7, "expected sha256 of the columns"),
        ((*COLUMNS, "pixels"), "0" * 64, "expected sha256 of the columns"),
        (SHARDS, [], "shards is \\[\\], expected dict"),
        ((*SHARDS, "name"), "train-00000.tar", "name is 'train-00000.tar', expected list"),
        ((*SHARDS, "name"), ["train-00000.tar"], "1 names of shards, but another number of"),
        ((*SHARDS, "name"), ["train-00000.tar", 1], "name has a value that is no text"),
        ((*SHARDS, "name"), ["train-00000.tar", "../x.tar"], "not a plain file name"),
        ((*SHARDS, "name"), ["train-00000.tar", "val-00000.tar"], "4 shards but 3 names"),
        ((*SHARDS, "sha256", 1), "0" * 63, "expected 64 hexadecimal digits"),
        ((*SHARDS, "bytes", 1), 4096, "4096 bytes, expected"),
        ((*SHARDS, "bytes", 1), 4096.0, "bytes is 4096.0"),
        ((*SHARDS, "bytes", 0), 1 << 64, "bytes is 18446744073709551616"),
        ((*SHARDS, "blocks"), [3, 0], r"train-00000.tar: \d+ bytes, expected \d+"),
        ((*SHARDS, "blocks"), [2, 2], "4 blocks, but columns of 3"),
        ((*SHARDS, "blocks"), [1 << 46, 1 << 46], "blocks, but columns of 3"),
        ((*SHARDS, "block_samples"), "00000000" * 3, "do not add up"),
        ((*SHARDS, "block_samples"), "ffffffff" * 3, "do not add up"),
        ((*SHARDS, "block_samples"), "00000001" * 2, "3 blocks, but columns of 2 and 3"),
        ((*SHARDS, "block_samples"), [2, 1, 3], "expected str"),
        ((*SHARDS, "block_bytes"), "0" * 48, "that this version does not write"),
        ((*SHARDS, "block_crc32"), CHECKSUM * 2, "3 blocks, but columns of 2 and 3"),
        ((*SHARDS, "block_crc32"), CHECKSUM * 2 + "0" * 7, "non-hexadecimal|buffer size|even"),
        ((*SHARDS, "block_crc32"), CHECKSUM * 2 + "0000000x", "non-hexadecimal"),
        ((*SHARDS, "block_crc32"), CHECKSUM * 2 + "0000 0000", "fields that contradict"),
        ((*SHARDS, "block_crc32"), [0, 0, 0], "expected str"),
        ((*SHARDS, "block_plain_crc32"), CHECKSUM * 3, "that this version does not write"),
    ],
)
def test_each_kind_of_damage_of_version_4(folder: Path, valid_4: Json, steps: Steps, value: Json, message: str) -> None:
    write(folder, change(valid_4, steps, value))
    assert_refused(folder, message)


def test_a_split_whose_name_leads_outside(folder: Path, valid_4: Json) -> None:
    """Its columns would be files with that name."""
    valid_4["splits"]["../train"] = valid_4["splits"].pop("train")
    write(folder, valid_4)
    assert_refused(folder, r"split name '../train' cannot begin a file's name")


def test_every_missing_field(folder: Path, valid: Json, valid_4: Json) -> None:
    for content, steps in [(each, steps) for each in (valid, valid_4) for steps in nodes(each)]:
        if isinstance(steps[-1], str) and steps[0] != "history" and len(steps) != 2:
            write(folder, remove(content, steps))
            assert_refused(folder, "not a shard set|no field|contradict|expected sha256 of the columns")


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 5),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.sampled_from(["train-00000.tar", "../x.tar", "unknown", "0" * 64, 4096, 1 << 62, 1 << 63, 1 << 64]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(data=st.data())
def test_random_damage_is_refused_or_harmless(
    folder: Path, manifest: Manifest, older: Manifest, data: st.DataObject
) -> None:
    """Where it is harmless (another name, say) nothing in the file was ignored, and opening fails as a ShardError."""
    content = json.loads(data.draw(st.sampled_from([manifest, older])).to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        steps = data.draw(st.sampled_from(nodes(content)))
        content = remove(content, steps) if data.draw(st.booleans()) else change(content, steps, data.draw(values))
    write(folder, content)
    try:
        found = ShardSet(folder)
    except CorruptShard as error:
        assert str(error).startswith(f"{folder / MANIFEST_NAME}: ")
        return
    assert json.loads(found.manifest.to_json()) == content
    assert_opens_or_refuses(found)


def assert_opens_or_refuses(found: ShardSet) -> None:
    for name, split in found.manifest.splits.items():
        try:
            assert len(found.split(name).labels()) == split.samples
        except ShardError:
            continue


@pytest.fixture(scope="module", params=["zstd", "png"])
def version_2(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that version 1 cannot describe."""
    blocks = [drawn(2), drawn(1, 1)]
    folder = tmp_path_factory.mktemp("v2") / "set"
    return as_older(write_set_of(folder, request.param, {"train": blocks, "val": [drawn(2, 9)]}))


def test_round_trip_of_version_2(version_2: Path) -> None:
    found = read_manifest(version_2)
    text = (version_2 / MANIFEST_NAME).read_text(encoding="utf-8")
    assert found.to_json() == text and json.loads(text)["version"] == 2
    assert parse_manifest(text) == found


@pytest.mark.parametrize("kind", ["zstd", "png"])
def test_round_trip_of_version_4_with_blocks_of_any_size(tmp_path: Path, kind: Kind) -> None:
    folder = write_set_of(tmp_path / "set", kind, {"train": [drawn(2), drawn(1, 1)], "val": [drawn(2, 9)]})
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    found = parse_manifest(text)
    assert json.loads(text)["version"] == 4 and found.to_json() == text
    assert found.splits["train"].shards == without_columns(found).splits["train"].shards
    assert [block.samples for block in found.splits["train"].shards[0].blocks] == [2, 1]


def test_a_plain_packed_set_of_before_is_still_version_1(valid: Json, older: Manifest) -> None:
    manifest = older
    assert valid["version"] == 1 and not {"layout", "compression", "base"} & set(valid)
    assert (manifest.layout, manifest.compression, manifest.base) == ("packed", "none", "")
    elsewhere = replace(manifest, base="s3://bucket/prefix")
    assert parse_manifest(elsewhere.to_json()) == elsewhere and json.loads(elsewhere.to_json())["version"] == 2


def with_drawn(manifest: Manifest, *counts: int) -> Manifest:
    """The same set, where so many training images of each class are rendered from fonts."""
    train = replace(manifest.splits["train"], rendered_per_class=counts)
    return replace(manifest, splits={**manifest.splits, "train": train})


def test_rendered_images_of_version_4_have_their_name(manifest: Manifest) -> None:
    originals = manifest.splits["train"].originals_per_class
    rendered = with_drawn(manifest, *originals)
    content = json.loads(rendered.to_json())
    assert parse_manifest(rendered.to_json()) == rendered and content["version"] == 4
    assert content["splits"]["train"]["rendered_per_class"] == list(originals)


def test_only_a_set_with_rendered_images_is_version_3(older: Manifest) -> None:
    manifest = older
    originals = manifest.splits["train"].originals_per_class
    drawn = with_drawn(manifest, *originals)
    content = json.loads(drawn.to_json())
    assert parse_manifest(drawn.to_json()) == drawn and content["version"] == 3
    assert content["splits"]["train"]["drawn_per_class"] == list(originals)
    assert [split["drawn_per_class"] for name, split in content["splits"].items() if name != "train"] == [[]]
    assert {name: set(split.rendered_counts) for name, split in drawn.splits.items() if name != "train"} == {"val": {0}}
    for fewer in (originals[:-1], (originals[0] + 1, *originals[1:])):
        with pytest.raises(ValueError, match=r"shorter|longer|more rendered images than originals"):
            parse_manifest(with_drawn(manifest, *fewer).to_json())


def test_a_version_higher_than_needed_is_refused(older: Manifest) -> None:
    content = json.loads(with_drawn(older, *[0] * 7).to_json())
    content["splits"]["train"]["drawn_per_class"] = []
    with pytest.raises(ValueError, match="this version does not write"):
        parse_manifest(json.dumps(content))


def test_a_manifest_is_read_from_a_store_too(version_2: Path, tmp_path: Path) -> None:
    assert read_manifest(open_store(version_2)) == read_manifest(version_2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingShard, match=r"empty: no dataset.json, so this is not a complete shard set"):
        read_manifest(open_store(tmp_path / "empty"))


def first_block(data: Json, column: int, value: Json) -> Json:
    return change(data, ("splits", "train", "shards", 0, "blocks", 0, column), value)


@pytest.mark.parametrize("kind", ["zstd", "png"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: {**data, "version": 1}, "no field|contradict|does not fit|shorter|longer"),
        (lambda data: {**data, "layout": "rows"}, "layout 'rows', expected 'packed' or 'image'"),
        (lambda data: {**data, "layout": []}, r"layout \[\]"),
        (lambda data: {**data, "compression": "gzip"}, "compression 'gzip', expected 'none' or 'zstd' or 'lz4'"),
        (lambda data: {**data, "base": None}, "base is None, expected str"),
        (
            lambda data: {**data, "base": "pipe:cat /etc/passwd"},
            "base 'pipe:cat /etc/passwd', expected a printable location",
        ),
        (lambda data: {**data, "base": "../elsewhere"}, "expected a printable location"),
        (
            lambda data: {**data, "layout": "image", "compression": "lz4"},
            "compression 'lz4' of the image layout|no field|shorter",
        ),
        (lambda data: first_block(data, 0, 512), "block at 512 does not fit the"),
        (lambda data: first_block(data, 1, 511), "block at 0 does not fit the"),
        (lambda data: first_block(data, 1, 1 << 40), "does not fit the"),
        (lambda data: first_block(data, 2, 0), "do not add up"),
        (lambda data: first_block(data, 3, -1), "crc32 is -1"),
    ],
)
def test_damage_of_version_2(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, damage: Callable[[Json], Json], message: str
) -> None:
    folder = as_older(write_set_of(tmp_path_factory.mktemp("v2") / "set", kind, {"train": [drawn(2), drawn(1, 1)]}))
    write(folder, damage(json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))))
    assert_refused(folder, message)


def test_a_compressed_block_too_large_to_unpack_in_memory(older: Manifest) -> None:
    block = Block(offset=0, bytes=512 * 1000, samples=1 << 20, crc32=0, plain_crc32=0)
    shard = Shard(name="a.tar", bytes=block.bytes + 4096, sha256="0" * 64, blocks=(block,))
    split = Split(shards=(shard,), samples_per_class=(1 << 20,), originals_per_class=(1,))
    huge = replace(older, classes=1, compression="zstd", splits={"train": split})
    with pytest.raises(ValueError, match="block at 0 does not fit"):
        parse_manifest(huge.to_json())


def test_every_missing_field_of_version_2(version_2: Path) -> None:
    data = json.loads((version_2 / MANIFEST_NAME).read_text(encoding="utf-8"))
    for steps in nodes(data):
        if isinstance(steps[-1], str) and steps[0] != "history" and len(steps) != 2:
            with pytest.raises((ValueError, KeyError)):
                parse_manifest(json.dumps(remove(data, steps)))


@settings(max_examples=300)
@given(data=st.data())
def test_random_damage_of_version_2_is_refused_or_harmless(version_2: Path, data: st.DataObject) -> None:
    content = json.loads((version_2 / MANIFEST_NAME).read_text(encoding="utf-8"))
    for _ in range(data.draw(st.integers(1, 3))):
        steps = data.draw(st.sampled_from(nodes(content)))
        content = remove(content, steps) if data.draw(st.booleans()) else change(content, steps, data.draw(values))
    try:
        found = parse_manifest(json.dumps(content))
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    assert json.loads(found.to_json()) == content
    assert all(shard.plain_bytes > 0 for split in found.splits.values() for shard in split.shards)
