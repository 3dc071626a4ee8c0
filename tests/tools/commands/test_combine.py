"""combine: one order whatever the sources' form, every image checked, nothing dropped in silence."""

import csv
import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kkanji.classes import read_class_map
from shards.checksums import file_digest
from shards.errors import InputError
from tools.commands.combine import combine
from tools.ingest.originals import read_originals

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]
COUNTS = {"U+4E8C": 3, "U+4E00": 4, "U+241C6": 1, "U+FA1D": 2}


def image(seed: int) -> Pixels:
    """Blocks of white ink on black, which preparation leaves as they are."""
    blocks = np.zeros((16, 16), np.uint8)
    blocks[3:13, 3:13] = np.random.default_rng(seed).integers(0, 2, (10, 10)) * 255
    return np.kron(blocks, np.ones((4, 4), np.uint8))


def tar_of(root: Path, path: Path, mode: str) -> Path:
    """The files of a folder in reverse order, so that no order of reading can be the output's by chance."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for file in sorted(root.rglob("*.png"), reverse=True):
            archive.add(file, file.relative_to(root).as_posix())
    return path


def dropped(folder: Path) -> list[dict[str, str]]:
    with (folder / "dropped.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tree(tmp_path: Path, png: Encode) -> Callable[..., Path]:
    """Makes a folder from `path inside -> pixels or bytes`."""

    def make(files: Mapping[str, Pixels | bytes], name: str = "raw") -> Path:
        root = tmp_path / name
        for inside, content in files.items():
            path = root / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else png(content))
        return root

    return make


def test_folder_and_archives_give_the_same_originals(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = codh_tree(COUNTS)
    sources = {
        "folder": root,
        "tar": tar_of(root, tmp_path / "raw.tar", "w"),
        "targz": tar_of(root, tmp_path / "raw.tar.gz", "w:gz"),
        "tgz": tar_of(root, tmp_path / "raw.tgz", "w:gz"),
    }
    for name, source in sources.items():
        combine((source,), output=tmp_path / name)
    for file in ("images.npy", "index.json", "dropped.csv"):
        assert len({(tmp_path / name / file).read_bytes() for name in sources}) == 1, file
    tables = {
        (tmp_path / name / "originals.csv").read_text().replace(f",{source.name},", ",raw,")
        for name, source in sources.items()
    }
    assert len(tables) == 1


def test_originals_are_the_images_ordered_by_code_point_and_id(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = codh_tree(COUNTS)
    combine((root,), output=tmp_path / "originals")
    found = read_originals(tmp_path / "originals")
    assert found.classes.labels == ("U+4E00", "U+4E8C", "U+FA1D", "U+241C6")
    keys = list(zip(found.labels.tolist(), found.ids.tolist(), strict=True))
    assert keys == sorted(keys) and len(keys) == 10
    with (tmp_path / "originals" / "originals.csv").open(newline="", encoding="utf-8") as file:
        for row, pixels in zip(csv.DictReader(file), found.images, strict=True):
            assert np.array_equal(np.asarray(Image.open(root / row["member"])), pixels)
            assert row["label"] == Path(row["member"]).parent.name
    mapped = np.load(tmp_path / "originals" / "images.npy", mmap_mode="r")
    assert mapped.shape == (10, 64, 64) and mapped.dtype == np.uint8


def test_several_sources_make_one_set_whatever_their_order(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    one, two = codh_tree({"U+4E00": 3}, name="one"), codh_tree({"U+4E00": 2, "U+4E01": 1}, seed=1, name="two")
    combine((one, two), output=tmp_path / "a")
    combine((two, one), output=tmp_path / "b")
    assert len(read_originals(tmp_path / "a").ids) == 6
    for file in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_blank_identical_and_conflicting_images_are_dropped_and_listed(
    tree: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = np.zeros((64, 64), np.uint8)
    root = tree(
        {
            "U+4E00/a.png": image(1),
            "U+4E00/copy.png": image(1),
            "U+4E00/black.png": blank,
            "U+4E01/black.png": blank,
            "U+4E01/white.png": blank + 255,
            "U+4E01/both.png": image(2),
            "U+4E02/both.png": image(2),
            "U+4E02/b.png": image(3),
        }
    )
    with pytest.warns(UserWarning, match=r"1 classes have no image left: U\+4E01"):
        combine((root,), output=tmp_path / "originals")
    listed = [(row["reason"], row["member"]) for row in dropped(tmp_path / "originals")]
    assert listed == [
        ("blank", "U+4E00/black.png"),
        ("blank", "U+4E01/black.png"),
        ("blank", "U+4E01/white.png"),
        ("conflict", "U+4E01/both.png"),
        ("conflict", "U+4E02/both.png"),
        ("identical", "U+4E00/copy.png"),
    ]
    facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
    counts = {"read": 8, "kept": 2, "blank": 3, "identical": 1, "conflict": 2, "classes": 3}
    assert facts["counts"] == counts and facts["classes_without_images"] == ["U+4E01"]
    assert read_class_map(tmp_path / "originals").labels == ("U+4E00", "U+4E01", "U+4E02")
    assert "2 originals of 3 classes from 8 images" in capsys.readouterr().out


def test_facts_hold_checksums_name_and_licence(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = codh_tree(COUNTS)
    archive = tar_of(root, tmp_path / "raw.tar", "w")
    combine((archive,), output=tmp_path / "originals", name="Drawn", licence="CC0")
    facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
    assert (facts["name"], facts["licence"]) == ("Drawn", "CC0")
    assert facts["sources"] == [{"name": "raw.tar", "sha256": file_digest(archive)}]
    assert facts["images_sha256"] == file_digest(tmp_path / "originals" / "images.npy")
    assert facts["originals_sha256"] == file_digest(tmp_path / "originals" / "originals.csv")


def test_files_beside_the_images_are_ignored(tree: Callable[..., Path], tmp_path: Path) -> None:
    beside = {"README.md": b"x", "kkanji2/LICENSE": b"x", ".DS_Store": b"x", "kkanji2/U+4E00/._a.png": b"x"}
    combine((tree({"kkanji2/U+4E00/a.png": image(1), **beside}),), output=tmp_path / "originals")
    assert len(read_originals(tmp_path / "originals").ids) == 1


def pillow(picture: Image.Image, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """65,535 x 65,535 pixels in a few bytes."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 65535, 65535, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def short_of_pixels() -> bytes:
    """All checksums right, but half the rows."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(65 * 32))) + chunk(b"IEND", b"")


GOOD = pillow(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)))
GRAY = "expected a PNG of 64x64 pixels, 8-bit gray: convert it or leave it out"
AGAIN = "expected a PNG of 64x64 pixels, 8-bit gray: fetch it again or leave it out"


BAD_IMAGES = {
    "63 wide": (pillow(Image.new("L", (63, 64))), f"found 63x64 pixels, 8-bit gray; {GRAY}"),
    "RGB": (pillow(Image.new("RGB", (64, 64))), f"found 64x64 pixels, 8-bit RGB; {GRAY}"),
    "RGBA": (pillow(Image.new("RGBA", (64, 64))), f"found 64x64 pixels, 8-bit RGB with alpha; {GRAY}"),
    "palette": (pillow(Image.new("P", (64, 64))), f"bit palette; {GRAY}"),
    "1 bit": (pillow(Image.new("1", (64, 64))), f"found 64x64 pixels, 1-bit gray; {GRAY}"),
    "16 bits": (pillow(Image.new("I;16", (64, 64))), f"found 64x64 pixels, 16-bit gray; {GRAY}"),
    "JPEG": (pillow(Image.new("L", (64, 64)), "JPEG"), "bytes starting with ff d8 ff e0"),
    "bomb": (bomb(), f"found 65535x65535 pixels, 8-bit gray; {GRAY}"),
    "empty": (b"", f"found 0 bytes, {GRAY}"),
    "cut in the header": (GOOD[:20], f"cut short after 20 bytes; {AGAIN}"),
    "cut in the pixels": (GOOD[:-100], f"cut short after {len(GOOD) - 100} bytes; {AGAIN}"),
    "bytes behind": (GOOD + b"x", f"1 bytes after the end of the PNG; {GRAY}"),
    "bad header": (GOOD[:8] + b"\0\0\0\x0eIHDR" + GOOD[16:], f"damaged PNG header; {AGAIN}"),
    "flipped bit": (
        GOOD[:60] + bytes([GOOD[60] ^ 1]) + GOOD[61:],
        "crc32 of chunk b'IDAT' at byte 33 is wrong; fetch it",
    ),
    "half the rows": (short_of_pixels(), f"its pixels cannot be decoded; {AGAIN}"),
    "2 MiB": (bytes(2 << 20), "2097152 bytes, expected 1048576 at most"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused_by_name(tree: Callable[..., Path], tmp_path: Path, name: str) -> None:
    data, message = BAD_IMAGES[name]
    root = tree({"kkanji2/U+4E00/good.png": image(1), "kkanji2/U+4E01/bad.png": data})
    with pytest.raises(InputError) as caught:
        combine((root,), output=tmp_path / "originals", as_is=True)
    assert "kkanji2/U+4E01/bad.png: " in str(caught.value) and message in str(caught.value)
    assert not (tmp_path / "originals").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("kkanji2/U+ZZZZ/a.png", "found 'U+ZZZZ', expected U+ and four or five capital hex digits, as in U+4E00"),
        ("kkanji2/U+4e00/a.png", "found 'U+4e00', expected U+ and four or five capital hex digits"),
        ("kkanji2/a.png", "found class 'kkanji2'; expected U+4E00, 一, or a name that --classes FILE explains"),
        ("kkanji2/U+4E00/more/a.png", "found class 'more'; expected U+4E00"),
        ("7/a.png", "found class '7'; expected U+4E00"),
    ],
)
def test_files_out_of_place_are_refused_by_name(
    tree: Callable[..., Path], tmp_path: Path, inside: str, message: str
) -> None:
    root = tree({"kkanji2/U+4E00/good.png": image(1), inside: image(2)})
    for source in (root, tar_of_all(root, tmp_path / "raw.tar")):
        with pytest.raises(InputError) as caught:
            combine((source,), output=tmp_path / "originals")
        assert str(caught.value).startswith(f"{source}: {inside}: ") and message in str(caught.value)


def tar_of_all(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(root, ".")
    return path


def test_missing_empty_and_useless_sources_are_refused(tree: Callable[..., Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    blank = tree({"U+4E00/a.png": np.zeros((64, 64), np.uint8)})
    cases = (
        (tmp_path / "missing", "no such folder or file; expected CLASS/<name>.png in a folder, .tar, .tar.gz or .tgz"),
        (empty, "no image in it; expected U+XXXX/<name>.png at any depth"),
        (blank, "all 1 images are blank or in conflict"),
    )
    for source, message in cases:
        with pytest.raises(InputError) as caught:
            combine((source,), output=tmp_path / "originals")
        assert str(caught.value).startswith(f"{source}: {message}")
    with pytest.raises(InputError, match="no SOURCE given"):
        combine((), output=tmp_path / "originals")


def test_truncated_archives_leave_nothing(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    whole = tar_of(codh_tree(COUNTS), tmp_path / "whole.tar", "w").read_bytes()
    for name, data in (("cut.tar", whole[: len(whole) // 2]), ("cut.tar.gz", gzip.compress(whole)[:-30000])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: ends at byte \d+ of the unpacked archive, after 'kkanji2/U"):
            combine((tmp_path / name,), output=tmp_path / "originals")
        assert not (tmp_path / "originals").exists()


def test_links_to_folders_and_other_special_files_are_refused(tree: Callable[..., Path], tmp_path: Path) -> None:
    linked, piped = tree({"U+4E00/a.png": image(1)}, "linked"), tree({"U+4E00/a.png": image(1)}, "piped")
    (linked / "U+4E01").symlink_to(linked / "U+4E00")
    os.mkfifo(piped / "U+4E00" / "b.png")
    with pytest.raises(InputError, match=r"U\+4E01: a link to a folder, not followed; remove it and give its target"):
        combine((linked,), output=tmp_path / "originals")
    with pytest.raises(InputError, match=r"b\.png: neither a file nor a folder"):
        combine((piped,), output=tmp_path / "originals")


def test_existing_output_is_kept_without_overwrite(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = codh_tree({"U+4E00": 2})
    combine((root,), output=tmp_path / "originals")
    with pytest.raises(InputError, match="already exists and is not empty"):
        combine((root,), output=tmp_path / "originals")
    combine((codh_tree({"U+4E00": 3}, name="more"),), output=tmp_path / "originals", overwrite=True)
    assert len(read_originals(tmp_path / "originals").ids) == 3


def licence_of(folder: Path) -> tuple[str, str]:
    facts = json.loads((folder / "originals.json").read_text())
    return facts["name"], facts["licence"]


def test_a_licence_is_stated_only_of_what_is_recognised(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    """CODH's images by their names, the sample by its hashes; one image of one's own makes a source unknown."""
    codh, own = codh_tree({"U+4E00": 3}), codh_tree({"U+4E01": 3}, seed=1, name="own")
    (own / "kkanji2").rename(own / "mine")
    for number, path in enumerate(sorted(own.rglob("*.png"))):
        path.write_bytes(pillow(Image.fromarray(image(number))))
    sample = Path(__file__).parents[3] / "sample" / "kkanji2"
    expected = {
        "codh": ((codh,), "Kuzushiji-Kanji", "`KMNIST Dataset` (created by CODH)"),
        "inside": ((codh / "kkanji2",), "Kuzushiji-Kanji", "`KMNIST Dataset` (created by CODH)"),
        "own": ((own,), "own", "unknown"),
        "sample": ((sample,), "kkanji2", "rendered from brush fonts"),
        "both": ((codh, own), "Kuzushiji-Kanji + own", "Kuzushiji-Kanji: `KMNIST"),
    }
    for output, (sources, name, licence) in expected.items():
        combine(sources, output=tmp_path / "made" / output)
        found = licence_of(tmp_path / "made" / output)
        assert found[0] == name and found[1].startswith(licence)
    assert licence_of(tmp_path / "made" / "both")[1].endswith("; own: unknown")
    shutil.copy(next((own / "mine" / "U+4E01").iterdir()), codh / "kkanji2" / "U+4E00" / "scan.png")
    combine((codh,), output=tmp_path / "added")
    assert licence_of(tmp_path / "added")[1] == "unknown"
    combine((own,), output=tmp_path / "given", licence="CC0", name="mine")
    assert licence_of(tmp_path / "given") == ("mine", "CC0")


def test_a_linked_class_is_given_as_a_source_as_the_message_says(
    codh_tree: Callable[..., Path], tmp_path: Path
) -> None:
    root, store = codh_tree({"U+4E00": 2}), codh_tree({"U+4E01": 2}, seed=1, name="store") / "kkanji2" / "U+4E01"
    (root / "kkanji2" / "U+4E01").symlink_to(store)
    with pytest.raises(InputError, match="remove it and give its target as a source"):
        combine((root,), output=tmp_path / "originals")
    (root / "kkanji2" / "U+4E01").unlink()
    combine((root, store), output=tmp_path / "originals")
    assert len(read_originals(tmp_path / "originals").ids) == 4
