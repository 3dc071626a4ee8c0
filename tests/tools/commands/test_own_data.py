"""combine on images as people have them: prepared as `predict` reads them, or refused, with names of any kind."""

import csv
import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kkanji.classes import read_class_map
from kkanji.inference.image_files import load_character
from shards import InputError
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.split import split
from tools.ingest.originals import read_originals, read_split

Pixels = NDArray[np.uint8]
SIDEWAYS = 6  # an EXIF orientation


def ink(seed: int = 0, side: int = 64) -> Image.Image:
    """Strokes of white ink on black, of a shape of their own."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((16, 16), np.uint8)
    pixels[3:13, 3:13] = random.integers(0, 2, (10, 10)) * 255
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned(picture: Image.Image, orientation: int = SIDEWAYS) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture, exif=exif)


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def dropped(folder: Path) -> list[tuple[str, str]]:
    with (folder / "dropped.csv").open(newline="", encoding="utf-8") as file:
        return [(row["reason"], row["member"]) for row in csv.DictReader(file)]


CHARACTER = Image.open(sorted((Path(__file__).parents[3] / "sample/kkanji2/U+4E09").iterdir())[0])
DARK = ImageOps.invert(CHARACTER)
BACK = {  # how a picture is turned so that its EXIF orientation turns it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def deep(picture: Image.Image, kind: type[np.generic], white: float) -> Image.Image:
    """Levels of another type, from 0 to `white`."""
    return Image.fromarray((np.asarray(picture) / 255 * white).astype(kind))


def on_nothing(ink: str) -> Image.Image:
    """Strokes of one colour on transparent paper."""
    solid = Image.new("L", CHARACTER.size, ink)
    return Image.merge("LA", (solid, CHARACTER))


KINDS = {
    "as CODH's": encoded(CHARACTER),
    **{f"orientation {number}": turned(CHARACTER.transpose(way), number) for number, way in BACK.items()},
    "orientation 6, dark": turned(DARK.transpose(BACK[6]), 6),
    "dark ink on light paper": encoded(DARK),
    "brown ink on yellow paper": encoded(ImageOps.colorize(CHARACTER, "#e0c8a0", "#302820")),
    "pale ink on blue paper": encoded(ImageOps.colorize(CHARACTER, "#102040", "#e0e0c8")),
    "white ink on nothing": encoded(on_nothing("white")),
    "black ink on nothing": encoded(on_nothing("black")),
    "a palette": encoded(DARK.convert("P")),
    "1 bit, dark": encoded(DARK.convert("1", dither=Image.Dither.NONE)),
    "1 bit, light": encoded(CHARACTER.convert("1", dither=Image.Dither.NONE)),
    "a fax, whose 0 is white": encoded(DARK.convert("1", dither=Image.Dither.NONE), "TIFF", tiffinfo={262: 0}),
    "12 bits of 16": encoded(deep(CHARACTER, np.uint16, 4095)),
    "16 bits, dark": encoded(deep(DARK, np.uint16, 65535)),
    "32 bits": encoded(deep(CHARACTER, np.int32, 1 << 30), "TIFF"),
    "32 bits, dark": encoded(deep(DARK, np.int32, 1 << 30), "TIFF"),
    "floating point": encoded(deep(CHARACTER, np.float32, 1), "TIFF"),
    "floating point, dark": encoded(deep(DARK, np.float32, 1), "TIFF"),
    "CMYK": encoded(DARK.convert("CMYK"), "JPEG", quality=95),
    "WebP": encoded(DARK, "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_each_kind_is_the_same_character_in_training_as_in_prediction(tmp_path: Path, kind: str) -> None:
    """Upright, white ink on black, of 8 bits: what `combine` stores, bit for bit what `predict` reads."""
    root = write(tmp_path / "own", {"U+4E09/a.png": KINDS[kind]})
    combine((root,), output=tmp_path / "originals")
    (stored,) = read_originals(tmp_path / "originals").images
    assert np.array_equal(stored, load_character(root / "U+4E09/a.png"))
    assert likeness(Image.fromarray(stored)) > 0.85  # a coloured one is laid out anew, with soft edges


def likeness(picture: Image.Image) -> float:
    """Correlation of its ink with the character's, wherever and however large it is in the picture."""
    boxes = (each.point(lambda level: 255 * (level > 128)).getbbox() for each in (picture, CHARACTER))
    found, expected = (
        np.asarray(each.crop(box).resize((64, 64))).ravel()
        for each, box in zip((picture, CHARACTER), boxes, strict=True)
    )
    return float(np.corrcoef(found, expected)[0, 1])


def test_the_character_shows_how_it_is_turned_and_inverted() -> None:
    """Of all ways to turn it none looks like another, so that the test above notices each."""
    assert max(likeness(CHARACTER.transpose(way)) for way in BACK.values()) < 0.5
    assert likeness(DARK) < 0


@pytest.mark.parametrize("packed", [False, True])
def test_images_of_any_kind_are_stored_as_predict_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: bool
) -> None:
    files = {
        "U+4E00/clean.png": encoded(ink(0)),
        "U+4E00/paper.jpg": encoded(ImageOps.invert(ink(1)), "JPEG", quality=95),
        "一/colour.tif": encoded(ImageOps.colorize(ink(2, 96), "#e0c8a0", "#402010"), "TIFF"),
        "丁 (U+4E01)/turned.PNG": turned(ink(3)),
        "U+4E01/large.png": encoded(ink(4, 200)),
        "U+4E01/deep.png": encoded(Image.fromarray(np.asarray(ink(5)).astype(np.uint16) * 16)),
    }
    root = write(tmp_path / "own", files)
    combine((tar(tmp_path / "own.tar", files) if packed else root,), output=tmp_path / "originals")
    stored = {image.tobytes() for image in read_originals(tmp_path / "originals").images}
    assert stored == {load_character(root / name).tobytes() for name in files}
    said = capsys.readouterr().out
    assert "prepared as `kkanji predict` does: 6 images; 2 dark ink on light paper, inverted; 1 turned upright" in said
    assert "2 of another size" in said and "licence: unknown" in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(ink(side=63)), "found 63x63 pixels, 8-bit gray"),
        (encoded(ink().convert("RGB")), "found 64x64 pixels, 8-bit RGB"),
        (encoded(ink(), "JPEG"), "bytes starting with ff d8"),
        (turned(ink()), f"turned by its EXIF orientation {SIDEWAYS}"),
        (encoded(ImageOps.invert(ink())), "light at its edges, as dark ink on paper is"),
    ],
)
def test_as_is_refuses_what_is_not_ready_and_without_it_the_same_image_is_taken(
    tmp_path: Path, data: bytes, message: str
) -> None:
    root = write(tmp_path / "own", {"U+4E00/a.png": data, "U+4E00/ready.png": encoded(ink(9))})
    with pytest.raises(InputError) as caught:
        combine((root,), output=tmp_path / "originals", as_is=True)
    assert str(caught.value).startswith(f"{root}: U+4E00/a.png: ") and message in str(caught.value)
    assert "1 of 2 images cannot be used, --max-bad is 0" in str(caught.value)
    combine((root,), output=tmp_path / "one", as_is=True, max_bad="1")  # as it says
    assert read_originals(tmp_path / "one").images.tobytes() == ink(9).tobytes()
    combine((root,), output=tmp_path / "both")
    assert len(read_originals(tmp_path / "both").ids) == 2


def test_upright_images_are_taken_as_they_are(tmp_path: Path) -> None:
    root = write(tmp_path / "own", {"U+4E00/a.png": turned(ink(), 1)})
    combine((root,), output=tmp_path / "originals", as_is=True)
    assert read_originals(tmp_path / "originals").images.tobytes() == ink().tobytes()


def test_every_page_of_a_tiff_is_an_image(tmp_path: Path) -> None:
    pages = [ink(number) for number in range(3)]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=[pages[1], Image.new("L", (64, 64)), pages[2]])
    combine((write(tmp_path / "own", {"U+4E00/scan.tif": data}),), output=tmp_path / "originals")
    stored = {image.tobytes() for image in read_originals(tmp_path / "originals").images}
    assert stored == {page.tobytes() for page in pages}
    assert dropped(tmp_path / "originals") == [("blank", "U+4E00/scan.tif, page 3")]


def test_images_of_codh_are_as_published_whatever_their_levels(tmp_path: Path) -> None:
    """Their ids tell which images a model has learned from, so preparation must not change a pixel of them."""
    pixels = (60 + np.asarray(ink()) / 255 * 140).astype(np.uint8)
    data, name = encoded(Image.fromarray(pixels)), f"{1:016x}.png"
    combine((write(tmp_path / "theirs", {f"kkanji2/U+4E00/{name}": data}),), output=tmp_path / "a")
    assert read_originals(tmp_path / "a").images.tobytes() == pixels.tobytes()
    combine((write(tmp_path / "own", {f"mine/U+4E00/{name}": data}),), output=tmp_path / "b")
    assert read_originals(tmp_path / "b").images.tobytes() != pixels.tobytes()


def test_unusable_images_are_listed_and_others_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"U+4E00/{number}.png": encoded(ink(number)) for number in range(6)}
    bad = {"U+4E00/cut.png": encoded(ink())[:90], "U+4E00/phone.heic": b"x", "U+4E00/drawing.svg": b"<svg/>"}
    other = {"U+4E00/notes.txt": b"x", "U+4E00/blank.png": encoded(Image.new("L", (70, 70), "white"))}
    root = write(tmp_path / "own", files | bad | other)
    with pytest.raises(InputError, match=r"3 of 10 images cannot be used, --max-bad is 2"):
        combine((root,), output=tmp_path / "originals", max_bad="2")
    assert not (tmp_path / "originals").exists()
    combine((root,), output=tmp_path / "originals", max_bad="30%")
    expected = [("blank", "U+4E00/blank.png"), *(("unusable", name) for name in sorted(bad))]
    assert dropped(tmp_path / "originals") == expected
    said = capsys.readouterr().out
    assert said.count("unusable: ") == 3 and "phone.heic: a format that is not read" in said
    assert "left out: 1 file that are no images, such as U+4E00/notes.txt" in said
    preparation = read_originals(tmp_path / "originals").facts["preparation"]
    assert (preparation["prepared"], preparation["unusable"], preparation["other_files"]) == (7, 3, 1)


def test_names_of_classes_come_from_a_table_and_stay_with_the_set(tmp_path: Path) -> None:
    table = "name,class\nue,上\nshita,U+4E0B\nyori,ligature of よ and り\nseal,red seal\n"
    (tmp_path / "classes.csv").write_text(table, encoding="utf-8-sig")  # as Excel writes it
    names = {"ue": 3, "shita": 3, "yori": 3, "seal": 3, "一": 3}
    files = {
        f"{name}/{number}.png": encoded(ink(10 * kind + number))
        for kind, (name, count) in enumerate(names.items())
        for number in range(count)
    }
    root = write(tmp_path / "own", files)
    with pytest.raises(InputError, match=r"found class 'seal'; .* a name that --classes FILE explains"):
        combine((root,), output=tmp_path / "originals")
    combine((root,), output=tmp_path / "originals", classes=tmp_path / "classes.csv", val=0.3)
    pack(tmp_path / "originals", output=tmp_path / "shards", block_size=125)
    for folder in (tmp_path / "originals", tmp_path / "shards"):
        assert read_class_map(folder).characters == ("一", "上", "下", "ligature of よ and り", "red seal")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,class\na,上\na,下\n", "line 3: found 'a' a second time"),
        ("name,class\na\n", "line 2: found 1 values"),
        ("name,class\na,\n", "class name '': expected 1 to 80 characters"),
        ("name,class\na,U+4e00\n", "found 'U+4e00', expected U+"),
        ("file,label\na,b\n", "columns 'file,label'; expected a CSV file of name,class"),
        ("", "columns ''; expected a CSV file of name,class"),
    ],
)
def test_tables_of_names_that_cannot_be_used_are_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "classes.csv").write_text(table, encoding="utf-8")
    root = write(tmp_path / "own", {"a/a.png": encoded(ink())})
    with pytest.raises(InputError) as caught:
        combine((root,), output=tmp_path / "originals", classes=tmp_path / "classes.csv")
    assert str(caught.value).startswith(f"{tmp_path / 'classes.csv'}: ") and message in str(caught.value)


def test_a_folder_named_as_a_mac_stores_it(tmp_path: Path) -> None:
    combine((write(tmp_path / "own", {"か\u3099/a.png": encoded(ink())}),), output=tmp_path / "originals")
    assert read_originals(tmp_path / "originals").classes.characters == ("が",)


def test_webdataset_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers are explained by the class map of a shard set, code points and characters by themselves."""
    samples = {
        **{"a/0.jpg": encoded(ink(0, 100), "JPEG"), "a/0.cls": b"1\n", "a/0.json": b"{}"},
        **{"a/1.png": encoded(ImageOps.invert(ink(1))), "a/1.cls": b"0"},
        **{"a/._2.png": b"x", "a/2.v1.png": encoded(ink(2)), "a/2.txt": "一".encode()},
        **{"a/3.png": encoded(ink(3))},
    }
    source = tar(tmp_path / "train-0.tar", samples)
    (tmp_path / "index.json").write_text('{"codepoint_to_id": {"上 (U+4E0A)": 0, "下 (U+4E0B)": 1}}')
    with pytest.raises(InputError, match=r"a/0\.cls: found class '1'; .* --classes FILE"):
        combine((source,), output=tmp_path / "originals")
    with pytest.raises(InputError, match=r"a/3: 1 images and 0 classes; .*\(1 of 4 images cannot be used"):
        combine((source,), output=tmp_path / "originals", classes=tmp_path / "index.json")
    combine((source,), output=tmp_path / "originals", classes=tmp_path / "index.json", max_bad="1")
    found = read_originals(tmp_path / "originals")
    assert found.classes.characters == ("一", "上", "下") and found.lineage == "unknown"
    read = {}
    for name in ("a/0.jpg", "a/1.png", "a/2.v1.png"):
        path = tmp_path / Path(name).name
        path.write_bytes(samples[name])
        read[name] = load_character(path).tobytes()
    by_class = [found.images[found.labels == number].tobytes() for number in range(3)]
    assert by_class == [read["a/2.v1.png"], read["a/1.png"], read["a/0.jpg"]]
    assert dropped(tmp_path / "originals") == [("unusable", "a/3")]
    assert "prepared as `kkanji predict` does: 3 images" in capsys.readouterr().out


@pytest.fixture
def arrays() -> dict[str, tuple[Pixels, Pixels]]:
    """Images [n, 28, 28] and labels of both parts of a small Kuzushiji-MNIST."""
    random = np.random.default_rng(0)
    return {
        part: (random.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 2).astype(np.uint8))
        for part, count in (("train", 6), ("test", 4))
    }


def write_idx(folder: Path, part: str, images: Pixels, labels: Pixels, *, packed: bool) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in (
        ("images-idx3", struct.pack(">4I", 2051, *images.shape) + images.tobytes()),
        ("labels-idx1", struct.pack(">2I", 2049, *labels.shape) + labels.tobytes()),
    ):
        path = folder / f"{part}-{name}-ubyte"
        path.write_bytes(data)
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))


CLASS_MAP = "index,codepoint,char\n0,U+304A,お\n1,U+304D,き\n"


def test_idx_arrays_are_the_same_as_npz(arrays: dict[str, tuple[Pixels, Pixels]], tmp_path: Path) -> None:
    npz, idx = tmp_path / "npz", tmp_path / "idx"
    npz.mkdir()
    for part, (images, labels) in arrays.items():
        np.savez(npz / f"kmnist-{part}-imgs.npz", images)
        np.savez(npz / f"kmnist-{part}-labels.npz", labels)
        write_idx(idx, {"test": "t10k"}.get(part, part), images, labels, packed=True)  # as torchvision leaves them
    for folder in (npz, idx):
        (folder / "kmnist_classmap.csv").write_text(CLASS_MAP, encoding="utf-8")
        combine((folder,), output=tmp_path / f"{folder.name}-originals")
    one, other = (read_originals(tmp_path / f"{name}-originals") for name in ("npz", "idx"))
    assert np.array_equal(one.images, other.images) and np.array_equal(one.ids, other.ids)
    assert one.labels.tolist() == other.labels.tolist() and one.official.tolist() == other.official.tolist()
    assert (one.facts["name"], one.facts["licence"]) == (other.facts["name"], other.facts["licence"])
    for path in idx.glob("*ubyte"):
        path.unlink()  # the .gz files are left
    combine((idx,), output=tmp_path / "packed")
    assert np.array_equal(read_originals(tmp_path / "packed").images, one.images)


def test_idx_arrays_need_a_class_map(arrays: dict[str, tuple[Pixels, Pixels]], tmp_path: Path) -> None:
    """MNIST and others have the same names."""
    write_idx(tmp_path / "raw", "train", *arrays["train"], packed=False)
    with pytest.raises(InputError, match=r"idx3-ubyte: idx arrays name no characters; .* or --classes FILE"):
        combine((tmp_path / "raw",), output=tmp_path / "originals")
    (tmp_path / "classes.csv").write_text("name,class\n0,零\n1,一\n", encoding="utf-8")
    combine((tmp_path / "raw",), output=tmp_path / "originals", classes=tmp_path / "classes.csv")  # as it says
    found = read_originals(tmp_path / "originals")
    assert found.classes.characters == ("一", "零") and found.facts["licence"] == "unknown"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "bytes that begin with"),
        (lambda data: data + b"x", "bytes that begin with"),
        (lambda data: b"\0" + data[:-1], "bytes that begin with"),
        (lambda data: data[:7], "bytes that begin with"),
        (lambda data: struct.pack(">4I", 2051, 1 << 31, 28, 28) + data[16:], "bytes that begin with"),
        (lambda data: struct.pack(">4I", 2051, 5, 28, 28) + data[16 : 16 + 5 * 784], "6 labels, but 5 images"),
    ],
)
def test_damaged_idx_arrays_are_refused(
    arrays: dict[str, tuple[Pixels, Pixels]], tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    write_idx(tmp_path / "raw", "train", *arrays["train"], packed=False)
    (tmp_path / "raw" / "kmnist_classmap.csv").write_text(CLASS_MAP, encoding="utf-8")
    path = tmp_path / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"ubyte: .*{message}"):
        combine((tmp_path / "raw",), output=tmp_path / "originals")


def test_val_divides_as_split_does(tmp_path: Path) -> None:
    files = {f"U+4E0{kind}/{number}.png": encoded(ink(10 * kind + number)) for kind in range(3) for number in range(8)}
    root = write(tmp_path / "own", files)
    combine((root,), output=tmp_path / "one", val=0.25)
    combine((root,), output=tmp_path / "two")
    split(tmp_path / "two", val=0.25)
    one, two = (read_split(read_originals(tmp_path / name)) for name in ("one", "two"))
    assert one.numbers.tolist() == two.numbers.tolist() and one.facts == two.facts and 0 < one.numbers.sum() < 24
    split(tmp_path / "one", val=0.5, overwrite=True)
    with pytest.raises(InputError, match=r"--val 1: expected a fraction"):
        combine((root,), output=tmp_path / "three", val=1)
    assert not (tmp_path / "three").exists()
