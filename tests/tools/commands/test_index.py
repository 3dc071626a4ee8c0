"""index: tars that others made can be trained on where they lie; a bad one is refused, a bad image counted."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from kkanji.data.codec import encode
from kkanji.data.training_set import open_set
from shards import CorruptShard, InputError, MissingShard, read_manifest
from shards.format.compression import check_stored
from shards.format.image_layout import read_table, table_problem
from shards.output.ownership import MARKER_NAME
from shards.store.store import open_store
from tests.faults import hostile
from tests.shards.kinds import CLASSES_JSON, drawn
from tools.build.index_tar import BLOCK_BYTES
from tools.commands.index import index

FIRST, SECOND = drawn(40), drawn(30, 1)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    (tmp_path / "classes.json").write_text(CLASSES_JSON, encoding="utf-8")
    return tmp_path / "classes.json"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Two tars as webdataset's own writer makes them, PNG and JPEG."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for name, samples, kind in (("train-0", FIRST, "png"), ("val-0", SECOND, "jpg")):
        with webdataset.TarWriter(str(folder / f"{name}.tar")) as writer:
            for number, (image, label) in enumerate(zip(samples.images, samples.labels, strict=True)):
                parts = {"__key__": f"{name}/{number}", kind: encode(image, kind), "cls": int(label)}  # type: ignore[arg-type]
                writer.write(parts | {"json": {"extra": number}})
    return folder


def run(foreign: Path, classes: Path, **options: Any) -> Path:
    output = foreign.parent / "indexed"
    index(train=(f"{foreign}/train-*.tar",), classes=classes, output=output, **options)
    return output


def test_foreign_tars_are_read_where_they_lie(foreign: Path, classes: Path) -> None:
    output = run(foreign, classes, val=(f"{foreign}/val-0.tar",), name="theirs", licence="CC0")
    assert {path.suffix for path in output.iterdir()} == {"", ".json", ".idx", ".npy"}
    data = open_set(output)
    manifest = data.manifest
    assert (manifest.name, manifest.licence, manifest.lineage) == ("theirs", "CC0", "unknown")
    assert manifest.base == str(foreign) and manifest.layout == "image"
    images, labels, sources = data.split("train").gather(np.arange(40))
    assert np.array_equal(images, FIRST.images) and np.array_equal(labels, FIRST.labels)
    assert len(set(sources.tolist())) == 40
    assert manifest.splits["train"].samples_per_class == tuple(np.bincount(FIRST.labels).tolist())
    assert manifest.splits["train"].originals_per_class == manifest.splits["train"].samples_per_class
    assert np.array_equal(data.split("val").labels(), SECOND.labels)
    for split in manifest.splits.values():
        for shard in split.shards:
            assert check_stored(shard, foreign / shard.name) is None
            assert table_problem(foreign / shard.name, read_table(open_store(output), shard)) is None


def test_what_is_written_does_not_depend_on_workers(foreign: Path, classes: Path) -> None:
    found = []
    for workers in (1, 4):
        output = run(foreign, classes, val=(f"{foreign}/val-*.tar",), workers=workers, overwrite=True)
        found.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert found[0] == found[1]


def test_relative_paths_are_meant_from_here(foreign: Path, classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(foreign)
    index(train=("train-0.tar",), classes=classes, output=foreign.parent / "indexed")
    assert read_manifest(foreign.parent / "indexed").base == str(foreign)


def test_a_large_tar_has_many_blocks(tmp_path: Path, classes: Path) -> None:
    image = hostile.png(more=hostile.chunk(b"tEXt", b"x" * 900_000))
    hostile.with_images(tmp_path / "a.tar", [image] * 12)
    index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")
    (shard,) = read_manifest(tmp_path / "indexed").splits["train"].shards
    assert [block.samples for block in shard.blocks] == [5, 5, 2]
    assert shard.blocks[0].bytes >= BLOCK_BYTES and check_stored(shard, tmp_path / "a.tar") is None
    assert read_manifest(tmp_path / "indexed").splits["train"].originals_per_class == (1, 1, 1)


def test_identical_images_in_two_splits_are_reported(foreign: Path, classes: Path) -> None:
    hostile.with_images(foreign / "test.tar", [encode(image, "png") for image in FIRST.images[:7]])
    with pytest.warns(UserWarning, match="^7 images are in both train and test, pixel for pixel$"):
        run(foreign, classes, test=(f"{foreign}/test.tar",))


def with_bad(tmp_path: Path, good: int, bad: int) -> str:
    """A tar with some bad images, every other one of its first."""
    names = list(hostile.BAD_IMAGES)
    images = [encode(image, "png") for image in drawn(good).images]
    for number in range(bad):
        images.insert(2 * number, hostile.BAD_IMAGES[names[number % len(names)]])
    hostile.with_images(tmp_path / "a.tar", images)
    return f"{tmp_path}/a.tar"


@pytest.mark.parametrize("max_bad", ["0", "9", "0.9%"])
def test_bad_images_stop_it(tmp_path: Path, classes: Path, max_bad: str) -> None:
    tar = with_bad(tmp_path, 990, 10)
    with pytest.raises(
        InputError, match=rf"10 bad of 1000 images, --max-bad is {max_bad}: .*byte \d+: 000000.png: found 0"
    ):
        index(train=(tar,), classes=classes, output=tmp_path / "indexed", max_bad=max_bad)
    assert not (tmp_path / "indexed").exists()


@pytest.mark.parametrize("max_bad", ["10", "1%"])
def test_bad_images_within_the_budget_are_counted_and_left_out(tmp_path: Path, classes: Path, max_bad: str) -> None:
    tar = with_bad(tmp_path, 990, 10)
    index(train=(tar,), classes=classes, output=tmp_path / "indexed", max_bad=max_bad)
    data = open_set(tmp_path / "indexed")
    history = data.manifest.history["index"]
    assert history["bad_images"] == {"train": 10} and len(history["examples"]) == 10
    assert history["max_bad"] == max_bad
    reader = data.split("train")
    assert reader.samples == 990 and np.array_equal(reader.gather(np.arange(990)).images, drawn(990).images)


def test_a_tar_of_bad_images_alone_is_refused(tmp_path: Path, classes: Path) -> None:
    with pytest.raises(CorruptShard, match=r"a.tar: no usable image; .*000000.png: found 0 bytes"):
        index(train=(with_bad(tmp_path, 0, 5),), classes=classes, output=tmp_path / "indexed", max_bad="100%")


def test_a_stretch_of_bad_images_joins_a_neighbour(tmp_path: Path, classes: Path) -> None:
    """At the front, in the middle and at the end."""
    bad, good = hostile.chunk(b"junk", b"x" * 1_000_000), [encode(image, "png") for image in drawn(2).images]
    hostile.with_images(tmp_path / "a.tar", [*[bad] * 5, good[0], *[bad] * 10, good[1], *[bad] * 10])
    index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed", max_bad="25")
    (shard,) = read_manifest(tmp_path / "indexed").splits["train"].shards
    assert [block.samples for block in shard.blocks] == [1, 1] and check_stored(shard, tmp_path / "a.tar") is None


@pytest.mark.parametrize("name", hostile.TEXTS)
def test_hostile_tars_are_refused(tmp_path: Path, classes: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(hostile.TEXTS[name])
    with pytest.raises(CorruptShard, match=rf"^{tmp_path}/a.tar: byte \d+"):
        index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed", max_bad="100%")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "classes.json"}


def test_every_cut_of_a_tar_is_refused(tmp_path: Path, classes: Path) -> None:
    hostile.with_images(tmp_path / "whole.tar", [encode(drawn(1).images[0], "png")])
    data = (tmp_path / "whole.tar").read_bytes()
    for length in range(0, len(data), 64):
        (tmp_path / "a.tar").write_bytes(data[:length])
        with pytest.raises(CorruptShard):
            index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")


def test_an_unsorted_tar_is_refused_with_the_remedy(tmp_path: Path, classes: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.png", "b.png", "a.cls", "b.cls"):
            (tmp_path / name).write_bytes(b"0")
            archive.add(tmp_path / name, name)
    with pytest.raises(CorruptShard, match=r"sample a has members png; expected one image .* \(tar --sort=name\)"):
        index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": ("absent.tar",)}, MissingShard, "absent.tar: no such tar"),
        ({"train": ("none-*.tar",)}, MissingShard, r"none-\*.tar: no such tar"),
        ({"train": ()}, InputError, "tars in 0 folders"),
        ({"val": ("../b.tar",)}, InputError, "tars in 2 folders .* expected all in one"),
        ({"val": ("val-0.tar", "val-*.tar")}, InputError, "val-0.tar: given twice"),
        ({"val": ("train-0.tar",)}, InputError, "train-0.tar: given twice"),
        ({"train": ("pipe:cat a.tar",)}, InputError, "expected a name of letters"),
        ({"train": ("a.tgz",)}, InputError, "expected a name of letters"),
        ({"classes": Path("absent.json")}, InputError, "--classes absent.json: .*No such file"),
        ({"max_bad": "-1"}, InputError, "--max-bad -1: expected a number of images, or a share"),
        ({"max_bad": "%"}, InputError, "--max-bad %: expected"),
        ({"max_bad": "0.5"}, InputError, "--max-bad 0.5: expected"),
        ({"max_bad": "101%"}, InputError, "--max-bad 101%: expected"),
    ],
)
def test_nonsense_is_refused(
    foreign: Path,
    classes: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[InputError],
    message: str,
) -> None:
    monkeypatch.chdir(foreign)
    given: dict[str, Any] = {"train": ("train-0.tar",), "classes": classes, **options}
    with pytest.raises(error, match=message):
        index(output=foreign.parent / "indexed", **given)
    assert not (foreign.parent / "indexed").exists()


def test_a_class_map_of_fewer_classes_is_refused(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text('{"codepoint_to_id": {"一 (U+4E00)": 0, "丁 (U+4E01)": 1}}', encoding="utf-8")
    with pytest.raises(
        CorruptShard, match=r"train-0.tar: byte \d+: train-0/2.cls: label b'2', expected .* from 0 to 1"
    ):
        run(foreign, tmp_path / "two.json")


def test_a_tar_that_was_replaced_since_is_noticed(foreign: Path, classes: Path) -> None:
    output = run(foreign, classes)
    (shard,) = read_manifest(output).splits["train"].shards
    data = bytearray((foreign / "train-0.tar").read_bytes())
    data[3000] ^= 1
    (foreign / "train-0.tar").write_bytes(data)
    assert "block 000000 at byte 0: crc32" in str(check_stored(shard, foreign / "train-0.tar"))


def test_tars_in_a_bucket_are_indexed_where_they_lie(
    foreign: Path, classes: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "cache"))
    store, local = open_store(bucket), run(foreign, classes, val=(f"{foreign}/val-0.tar",))
    for path in foreign.glob("*.tar"):
        store.upload(path.name, path)
    output = tmp_path / "remote"
    index(train=(f"{bucket}/train-*.tar",), val=(f"{bucket}/val-0.tar",), classes=classes, output=output)
    manifest = read_manifest(output)
    assert manifest.base == bucket and manifest.splits == read_manifest(local).splits
    assert {path.name: path.read_bytes() for path in output.glob("*.npy")} == {
        path.name: path.read_bytes() for path in local.glob("*.npy")
    }
    assert [path.name for path in output.glob(".*")] == [MARKER_NAME], "no tar is left"
    assert np.array_equal(open_set(output).split("train").collect(np.arange(40)).images, FIRST.images)
    with pytest.raises(MissingShard, match=r"absent.tar: no such tar"):
        index(train=(f"{bucket}/absent.tar",), classes=classes, output=tmp_path / "absent")
