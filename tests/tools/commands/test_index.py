"""index: tars that others made can be trained on where they lie; a bad one is refused, a bad image counted."""

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import ExifTags, Image

from kkanji.data.codec import encode
from kkanji.data.training_set import open_set
from shards import CorruptShard, InputError, MissingShard, read_manifest, verify
from shards.errors import MOST_TEXT
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
    with pytest.raises(CorruptShard, match=r"a.tar: byte \d+: 000000.png: found 0 bytes.*no usable image"):
        index(train=(with_bad(tmp_path, 0, 5),), classes=classes, output=tmp_path / "indexed", max_bad="100%")


def test_a_span_of_bad_images_joins_a_neighbour(tmp_path: Path, classes: Path) -> None:
    """At the front, in the middle and at the end."""
    bad, good = hostile.chunk(b"junk", b"x" * 1_000_000), [encode(image, "png") for image in drawn(2).images]
    hostile.with_images(tmp_path / "a.tar", [*[bad] * 5, good[0], *[bad] * 10, good[1], *[bad] * 10])
    index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed", max_bad="25")
    (shard,) = read_manifest(tmp_path / "indexed").splits["train"].shards
    assert [block.samples for block in shard.blocks] == [1, 1] and check_stored(shard, tmp_path / "a.tar") is None


@pytest.mark.parametrize("name", hostile.TEXTS)
def test_hostile_tars_are_refused(tmp_path: Path, classes: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(hostile.TEXTS[name])
    with pytest.raises(InputError, match=rf"{tmp_path}/a.tar: byte \d+"):
        index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")
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
        ({"val": ("../b.tar",)}, InputError, "tars in 2 folders .* expected one folder"),
        ({"val": ("val-0.tar", "val-*.tar")}, InputError, "val-0.tar: given twice"),
        ({"val": ("train-0.tar",)}, InputError, "train-0.tar: given twice"),
        ({"train": ("pipe:cat a.tar",)}, InputError, "expected a name of letters"),
        ({"train": ("a.tgz",)}, InputError, "expected a name of letters"),
        ({"classes": Path("absent.json")}, InputError, "absent.json: No such file .*--classes index.json"),
        ({"max_bad": "-1"}, InputError, "--max-bad -1: expected a number of images, or a percentage"),
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
        InputError, match=r"train-0.tar: byte \d+: train-0/2.cls: label b'2', expected .* from 0 to 1.*--max-bad"
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


def as_people_make_them(path: Path, odd: str) -> None:
    """Twenty samples, and something that people's tars have; sample 7 is odd."""
    images = [encode(image, "png") for image in drawn(20).images]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes, **pax: str) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), pax
            archive.addfile(member, io.BytesIO(data))

        for clutter in CLUTTER.get(odd, ()):
            add(clutter, b"x" * 163)
        for number, image in enumerate(images):
            changed = ODD.get(odd, {}) if number == 7 else {}
            headers = HEADERS.get(odd, {})
            if odd == "companions":
                add(f"./._{number}.png", bytes(163))
            add(changed.get("name", f"{number}.png"), changed.get("image", image), **headers)
            if "cls" in changed.get("lacks", ()):
                continue
            add(f"{number}.{changed.get('extension', 'cls')}", changed.get("label", b"0"), **headers)


CLUTTER = {
    "store": ("./.DS_Store", "x/.DS_Store"),
    "thumbs": ("Thumbs.db", "x/desktop.ini"),
    "zip": ("__MACOSX/._0.png", "__MACOSX/x/0.png"),
    "companions": (),
}
HEADERS = {
    "attributes": {"LIBARCHIVE.xattr.com.apple.provenance": "AQIA", "SCHILY.xattr.com.apple.provenance": "x"},
    "selinux": {"RHT.security.selinux": "unconfined_u:object_r:user_home_t:s0", "mtime": "1.5"},
}
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def turned(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn(1).images[0]).save(buffer, kind, exif=TURNED)
    return buffer.getvalue()


ODD: dict[str, dict[str, Any]] = {
    "PNG": {"name": "7.PNG"},
    "CLS": {"extension": "CLS"},
    "crlf": {"label": b"0\r\n"},
    "lonely": {"lacks": ("cls",)},
    "label": {"label": b"9999"},
    "words": {"label": "一".encode()},
    "empty": {"label": b""},
    "blank": {"image": b""},
    "turned png": {"image": turned("PNG")},
    "turned jpeg": {"image": turned("JPEG"), "name": "7.jpg"},
}


@pytest.mark.parametrize("odd", [*CLUTTER, *HEADERS, "PNG", "CLS", "crlf"])
def test_what_cannot_change_bytes_is_passed_over(tmp_path: Path, classes: Path, odd: str) -> None:
    as_people_make_them(tmp_path / "a.tar", odd)
    index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")
    data = open_set(tmp_path / "indexed")
    assert data.manifest.history["index"]["bad_images"] == {"train": 0}
    assert np.array_equal(data.split("train", check=True).gather(np.arange(20)).images, drawn(20).images)
    (shard,) = data.manifest.splits["train"].shards
    assert table_problem(tmp_path / "a.tar", read_table(open_store(tmp_path / "indexed"), shard)) is None


@pytest.mark.parametrize("odd", [name for name in ODD if name not in ("PNG", "CLS", "crlf")])
def test_an_odd_sample_counts_in_the_budget(
    tmp_path: Path, classes: Path, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    as_people_make_them(tmp_path / "a.tar", odd)
    with pytest.raises(InputError, match=r"1 bad of 20 images, --max-bad is 0: .*7.*allow more by --max-bad") as told:
        index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")
    assert len(str(told.value)) <= MOST_TEXT + len(str(tmp_path))
    index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed", max_bad="5%")
    assert "train: 1 bad images skipped, for example" in capsys.readouterr().out
    data = open_set(tmp_path / "indexed")
    kept = np.delete(drawn(20).images, 7, axis=0)
    assert np.array_equal(data.split("train", check=True).gather(np.arange(19)).images, kept)
    assert verify(tmp_path / "indexed").problems == ()


def test_keys_with_dots_are_counted_and_named_in_one_line(tmp_path: Path, classes: Path) -> None:
    """All of them are one sample, by WebDataset's rules; renamed as the message says, they are read."""
    image = encode(drawn(1).images[0], "png")
    for name, dot in (("a", "."), ("b", "-")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for number in range(2000):
                for extension, data in (("png", image), ("cls", b"0")):
                    member = tarfile.TarInfo(f"scan{dot}{number:06d}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    with pytest.raises(CorruptShard, match=r"rename scan\.01\.png to scan-01\.png") as told:
        index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed", max_bad="100%")
    assert len(str(told.value)) <= MOST_TEXT + len(str(tmp_path))
    index(train=(f"{tmp_path}/b.tar",), classes=classes, output=tmp_path / "indexed")


def test_a_refused_tar_made_again_as_the_message_says_is_read(tmp_path: Path, classes: Path) -> None:
    """A GNU tar of a sparse file and of links is none that all programs read alike; ustar has no such members."""
    (tmp_path / "files").mkdir()
    for number, image in enumerate(drawn(3).images):
        (tmp_path / "files" / f"{number}.png").write_bytes(encode(image, "png"))
        (tmp_path / "files" / f"{number}.cls").write_text("0")
    (tmp_path / "files" / "2.cls").unlink()
    os.link(tmp_path / "files" / "1.cls", tmp_path / "files" / "2.cls")
    make = ["tar", "-C", str(tmp_path / "files"), "--sort=name", "-cf", str(tmp_path / "a.tar")]
    subprocess.run([*make, "."], check=True)
    with pytest.raises(CorruptShard, match=r"a hard link.*tar --format=ustar") as told:
        index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")
    assert "--hard-dereference" in str(told.value)
    subprocess.run([*make, "--format=ustar", "--hard-dereference", "."], check=True)
    index(train=(f"{tmp_path}/a.tar",), classes=classes, output=tmp_path / "indexed")
