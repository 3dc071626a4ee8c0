"""Kuzushiji-49 and -MNIST: pixels enlarged, labels and official splits kept, no damaged or misfitting file taken."""

import csv
import io
import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shards import ShardSet, read_manifest
from shards.errors import InputError
from tools.commands.balance import balance
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.split import split
from tools.commands.verify import verify
from tools.ingest.codh_npz import enlarge, npz_sources
from tools.ingest.originals import NO_SPLIT, SPLITS, read_originals, read_split

Pixels = NDArray[np.uint8]
MakeNpz = Callable[..., Path]
CLASSES = (0x3042, 0x3044, 0x309D)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "originals.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), np.uint8)


def npz(array: NDArray[np.generic], name: str = "arr_0") -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{name: array})
    return buffer.getvalue()


@pytest.fixture
def arrays(tmp_path: Path) -> MakeNpz:
    """Makes a folder as CODH has it: `arrays("k49", train=pixels, test=pixels)`; labels go round the classes."""

    def make(name: str, **parts: Pixels) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows = "".join(f"{number},U+{point:04X},{chr(point)}\n" for number, point in enumerate(CLASSES))
        (folder / f"{name}_classmap.csv").write_text(f"index,codepoint,char\n{rows}", encoding="utf-8")
        for part, images in parts.items():
            labels = (np.arange(len(images)) % len(CLASSES)).astype(np.uint8)
            (folder / f"{name}-{part}-imgs.npz").write_bytes(npz(images))
            (folder / f"{name}-{part}-labels.npz").write_bytes(npz(labels))
        return folder

    return make


def test_images_keep_their_labels_members_and_official_splits(arrays: MakeNpz, tmp_path: Path) -> None:
    train, test = pixels(30, 1), pixels(9, 2)
    combine((arrays("k49", train=train, test=test),), output=tmp_path / "originals")
    found = read_originals(tmp_path / "originals")
    assert found.source_names == ("k49-test-imgs.npz", "k49-train-imgs.npz") and found.lineage == "known"
    assert found.classes.code_points == CLASSES
    for row, image in zip(table(tmp_path / "originals"), found.images, strict=True):
        part = row["official"]
        number = int(row["member"].removeprefix("arr_0[").removesuffix("]"))
        assert row["source"] == f"k49-{part}-imgs.npz"
        assert row["label"] == f"U+{CLASSES[number % 3]:04X}"
        assert image.tobytes() == enlarge({"train": train, "test": test}[part][number])
        assert row["sha256"].startswith(row["id"])
    assert [int((found.official == number).sum()) for number in (*range(3), NO_SPLIT)] == [30, 0, 9, 0]
    facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
    assert facts["name"] == "Kuzushiji-49"
    assert facts["official"] == {
        "train": {"read": 30, "kept": 30},
        "test": {"read": 9, "kept": 9},
        "twins_of_test": 0,
    }
    assert [source["name"] for source in facts["sources"]].count("k49_classmap.csv") == 2


def test_enlarging_keeps_black_and_white_and_clips_overshoot() -> None:
    edge = np.zeros((28, 28), np.uint8)
    edge[:, 14:] = 255
    large = np.frombuffer(enlarge(edge), np.uint8).reshape(64, 64)
    assert large[:, :28].max() <= 30 and large[:, 36:].min() >= 225
    assert large[0, 0] == 0 and large[0, 63] == 255
    assert not any(enlarge(np.zeros((28, 28), np.uint8)))
    assert set(enlarge(np.full((28, 28), 255, np.uint8))) == {255}


def test_official_test_images_are_always_test(arrays: MakeNpz, tmp_path: Path) -> None:
    combine((arrays("k49", train=pixels(60, 1), test=pixels(12, 2)),), output=tmp_path / "originals")
    for options in ({"val": 0.3, "test": 0.3}, {"val": 0.0}, {"folds": 3, "fold": 1}):
        split(tmp_path / "originals", overwrite=True, **options)
        combined = read_originals(tmp_path / "originals")
        numbers = read_split(combined).numbers
        official = combined.official == SPLITS.index("test")
        assert np.array_equal(numbers == SPLITS.index("test"), official)


def test_an_image_of_an_official_test_set_is_in_no_other_split(arrays: MakeNpz, tmp_path: Path) -> None:
    """KMNIST's training set may hold what K49 tests on, and the other way round."""
    shared, mine, other = pixels(3, 3), pixels(30, 4), pixels(30, 5)
    k49 = arrays("k49", train=np.concatenate([shared, mine]), test=pixels(6, 6))
    kmnist = arrays("kmnist", train=other, test=np.concatenate([shared, pixels(6, 7)]))
    for sources in ((k49, kmnist), (kmnist, k49)):
        combine(sources, output=tmp_path / "originals", overwrite=True)
        rows = {row["member"] + row["source"]: row for row in table(tmp_path / "originals")}
        assert [rows[f"arr_0[{number}]kmnist-test-imgs.npz"]["official"] for number in range(3)] == ["test"] * 3
        assert len(rows) == 3 + 30 + 6 + 30 + 6
        facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
        assert facts["official"]["twins_of_test"] == 3 and facts["counts"]["identical"] == 3
        assert facts["name"] == "Kuzushiji-49 + Kuzushiji-MNIST"
    split(tmp_path / "originals", val=0.2)
    combined = read_originals(tmp_path / "originals")
    test_ids = set(combined.ids[read_split(combined).numbers == SPLITS.index("test")].tolist())
    assert len(test_ids) == 15


def test_the_three_sets_together_become_a_clean_set(
    arrays: MakeNpz, codh_tree: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = (
        codh_tree({"U+4E00": 20, "U+4E01": 9}),
        arrays("k49", train=pixels(30, 1), test=pixels(9, 2)),
        arrays("kmnist", train=pixels(30, 3), test=pixels(9, 4)),
    )
    combine(sources, output=tmp_path / "originals")
    split(tmp_path / "originals", val=0.2)
    pack(tmp_path / "originals", output=tmp_path / "set", block_size=125)
    verify(tmp_path / "set")
    output = capsys.readouterr().out
    assert "Kuzushiji-49 + Kuzushiji-Kanji + Kuzushiji-MNIST, 5 classes, lineage known" in output
    assert "of test, 18 images are official test images" in output and output.endswith("clean\n")


def test_each_official_test_set_is_a_split_of_its_own_as_well(arrays: MakeNpz, tmp_path: Path) -> None:
    """Its score is what others publish. Two images are in both, and kept once."""
    shared, own = pixels(2, 1), {"k49": pixels(6, 2), "kmnist": pixels(9, 3)}
    folders = (arrays(name, train=pixels(30, 4), test=np.concatenate([shared, test])) for name, test in own.items())
    combine(tuple(folders), output=tmp_path / "originals")
    split(tmp_path / "originals", val=0.2)
    for make in (pack, partial(balance, per_class=10)):
        make(tmp_path / "originals", output=tmp_path / "set", block_size=125)
        data = ShardSet(tmp_path / "set")
        ids = {name: {*data.split(name).sources().tolist()} for name in data.manifest.splits}
        assert {name: len(found) for name, found in ids.items() if "test" in name} == {
            "test": 17,
            "test-k49": 8,
            "test-kmnist": 11,
        }
        assert ids["test"] == ids["test-k49"] | ids["test-kmnist"] and len(ids["test-k49"] & ids["test-kmnist"]) == 2
        for name, test in own.items():
            images = data.split(f"test-{name}").gather(np.arange(data.split(f"test-{name}").samples)).images
            assert {enlarge(each) for each in (*shared, *test)} == {each.tobytes() for each in images}
        verify(tmp_path / "set")
        shutil.rmtree(tmp_path / "set")


def test_the_half_protocol_does_not_undo_official_splits(arrays: MakeNpz, tmp_path: Path) -> None:
    combine((arrays("k49", train=pixels(30, 1)),), output=tmp_path / "originals")
    with pytest.raises(InputError, match="30 images have an official split, which --protocol half would undo"):
        split(tmp_path / "originals", protocol="half")


def test_a_single_file_will_do(arrays: MakeNpz, tmp_path: Path) -> None:
    folder = arrays("k49", train=pixels(30, 1), test=pixels(9, 2))
    combine((folder / "k49-test-imgs.npz",), output=tmp_path / "originals")
    assert len(read_originals(tmp_path / "originals").ids) == 9


def hollow(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    """An archive whose array says that it has this shape, and has this data."""
    inside, buffer = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(inside, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", inside.getvalue() + data)
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


GOOD = npz(pixels(9, 2))
BAD_IMAGES = {
    "cut": (GOOD[:2000], "no NumPy archive or a damaged one"),
    "flipped": (flipped(GOOD), "no NumPy archive or a damaged one"),
    "empty": (b"", "no NumPy archive or a damaged one"),
    "html": (b"<html>moved</html>", "no NumPy archive or a damaged one"),
    "another shape": (npz(np.zeros((9, 28, 29), np.uint8)), r"found uint8 \(9, 28, 29\), expected images of 28x28"),
    "float": (npz(np.zeros((9, 28, 28), np.float32)), r"found float32 \(9, 28, 28\), expected images of 28x28"),
    "none": (npz(np.zeros((0, 28, 28), np.uint8)), r"found uint8 \(0, 28, 28\), expected images of 28x28"),
    "Fortran order": (npz(np.asfortranarray(pixels(9, 2))), "Fortran order"),
    "a name that is no array": (hollow((9, 28, 28)).replace(b"arr_0.npy", b"arr_0.txt"), "expected one array"),
    "ends early": (hollow((9, 28, 28), bytes(8 * 784 + 5)), "arr_0 ends in row 8, expected 9 rows: damaged"),
    "goes on": (hollow((9, 28, 28), bytes(9 * 784 + 5)), "arr_0 goes on after its 9 rows: damaged"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_archives_are_refused_by_name(arrays: MakeNpz, tmp_path: Path, name: str) -> None:
    folder = arrays("k49", test=pixels(9, 2))
    data, message = BAD_IMAGES[name]
    (folder / "k49-test-imgs.npz").write_bytes(data)
    with pytest.raises(InputError, match=f"k49-test-imgs.npz: .*{message}"):
        combine((folder,), output=tmp_path / "originals")
    assert not (tmp_path / "originals").exists()


def test_pickled_arrays_are_refused(arrays: MakeNpz, tmp_path: Path) -> None:
    folder = arrays("k49", test=pixels(9, 2))
    with (folder / "k49-test-imgs.npz").open("wb") as file:
        np.savez(file, arr_0=np.array([{}], object))
    with pytest.raises(InputError, match=r"found object \(1,\), expected images of 28x28 pixels"):
        combine((folder,), output=tmp_path / "originals")


def test_a_header_that_promises_much_costs_nothing(arrays: MakeNpz, tmp_path: Path) -> None:
    """A terabyte by its header; the labels do not fit, so nothing of it is read."""
    folder = arrays("k49", test=pixels(9, 2))
    (folder / "k49-test-imgs.npz").write_bytes(hollow((1 << 30, 28, 28)))
    with pytest.raises(InputError, match=r"9 labels, but 1,073,741,824 images in k49-test-imgs.npz; expected the same"):
        combine((folder,), output=tmp_path / "originals")


def test_a_pair_of_headers_that_promise_the_same_costs_nothing(arrays: MakeNpz, tmp_path: Path) -> None:
    folder = arrays("k49", test=pixels(9, 2))
    (folder / "k49-test-imgs.npz").write_bytes(hollow((1 << 40, 28, 28)))
    (folder / "k49-test-labels.npz").write_bytes(hollow((1 << 40,)))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"labels.npz: arr_0 ends in row \d+, expected 1,099,511,627,776 rows"):
        combine((folder,), output=tmp_path / "originals")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 28


def test_labels_that_do_not_fit_are_refused(arrays: MakeNpz, tmp_path: Path) -> None:
    folder = arrays("k49", test=pixels(9, 2))
    labels = folder / "k49-test-labels.npz"
    cases: dict[str, NDArray[np.generic]] = {
        r"labels.npz: 8 labels, but 9 images in k49-test-imgs.npz; expected the same number": np.zeros(8, np.uint8),
        r"labels.npz: label 3 in row 4; k49_classmap.csv has 0 to 2": np.array([0] * 4 + [3] * 5, np.uint8),
        r"labels.npz: found int64 \(9,\), expected labels, uint8 \(N\)": np.zeros(9, np.int64),
    }
    for message, array in cases.items():
        labels.write_bytes(npz(array))
        with pytest.raises(InputError, match=message):
            combine((folder,), output=tmp_path / "originals")
    labels.unlink()
    with pytest.raises(InputError, match=r"k49-test-labels.npz: not there, but k49-test-imgs.npz needs it"):
        combine((folder,), output=tmp_path / "originals")


def test_labels_without_images_are_an_unfinished_download(arrays: MakeNpz) -> None:
    folder = arrays("k49", train=pixels(3, 1), test=pixels(9, 2))
    (folder / "k49-train-imgs.npz").unlink()
    with pytest.raises(InputError, match=r"k49-train-labels.npz: no k49-train-imgs.npz beside it; run `kkanji"):
        npz_sources(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,codepoint\n0,U+3042\n", "columns 'index,codepoint'; expected"),
        ("index,codepoint,char\n1,U+3042,あ\n", "expected rows numbered from 0 on"),
        ("index,codepoint,char\n0,U+3042,い\n", "expected rows numbered from 0 on"),
        ("index,codepoint,char\n0,U+3042,あ\n1,U+3042,あ\n", "expected rows numbered from 0 on"),
        ("index,codepoint,char\n", "expected rows numbered from 0 on"),
        ("index,codepoint,char\n0,3042,あ\n", "found '3042', expected U"),
    ],
)
def test_class_maps_that_contradict_themselves_are_refused(
    arrays: MakeNpz, tmp_path: Path, text: str, message: str
) -> None:
    folder = arrays("k49", test=pixels(9, 2))
    (folder / "k49_classmap.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"k49_classmap.csv: {message}"):
        combine((folder,), output=tmp_path / "originals")


def test_an_archive_of_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.npz").write_bytes(GOOD)
    with pytest.raises(InputError, match=r"images.npz: expected a name as in k49-train-imgs.npz"):
        combine((tmp_path / "images.npz",), output=tmp_path / "originals")


def test_official_test_images_alone_are_a_set_to_evaluate_on(arrays: MakeNpz, tmp_path: Path) -> None:
    combine((arrays("kmnist", test=pixels(9, 0)),), output=tmp_path / "originals")
    split(tmp_path / "originals")
    pack(tmp_path / "originals", output=tmp_path / "set", block_size=125)
    verify(tmp_path / "set")
    assert {name: part.samples for name, part in read_manifest(tmp_path / "set").splits.items()} == {"test": 9}
