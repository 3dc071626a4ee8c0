"""What the legacy project wrote is read, under a mark that everything made of it keeps: lineage unknown."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kkanji.classes import ClassMap
from shards import read_manifest
from shards.errors import InputError
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.split import split
from tools.commands.verify import verify
from tools.ingest.originals import read_originals

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]
POINTS = (0x3042, 0x4E00, 0xFA1D)


def image(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Thirty images in images.npy, labels.npy and index.json."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    np.save(folder / "images.npy", np.stack([image(seed) for seed in range(30)]))
    np.save(folder / "labels.npy", np.arange(30) % 3)
    (folder / "index.json").write_text(ClassMap.of(POINTS).to_json(), encoding="utf-8")
    return folder


def test_arrays_become_originals_of_unknown_lineage(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    combine(legacy=(arrays,), output=tmp_path / "originals")
    found = read_originals(tmp_path / "originals")
    assert found.lineage == "unknown" and found.classes.code_points == POINTS
    assert {found.images[row].tobytes() for row in np.flatnonzero(found.labels == 1)} == {
        image(seed).tobytes() for seed in range(1, 30, 3)
    }
    split(tmp_path / "originals", val=0.2)
    assert "lineage unknown: images made from one original may be in several splits" in capsys.readouterr().out
    pack(tmp_path / "originals", output=tmp_path / "set", block_size=125)
    assert read_manifest(tmp_path / "set").lineage == "unknown"
    verify(tmp_path / "set")
    assert "lineage unknown" in capsys.readouterr().out


def test_class_folders_may_be_named_by_code_point_character_or_both(png: Encode, tmp_path: Path) -> None:
    for number, folder in enumerate(("U+3042", "一", "﨟 (U+FA1F)", "𤇆")):
        (tmp_path / "balanced" / folder).mkdir(parents=True)
        (tmp_path / "balanced" / folder / "aug_000.png").write_bytes(png(image(number)))
    combine(legacy=(tmp_path / "balanced",), output=tmp_path / "originals")
    found = read_originals(tmp_path / "originals")
    assert found.classes.code_points == (0x3042, 0x4E00, 0xFA1F, 0x241C6) and found.lineage == "unknown"
    facts = json.loads((tmp_path / "originals" / "originals.json").read_text())
    assert (facts["lineage"], facts["name"]) == ({"unknown": 4}, "balanced")


@pytest.mark.parametrize("folder", ["", "一二", "一 (U+4E01)", "other"])
def test_folders_that_name_no_character_are_refused(png: Encode, tmp_path: Path, folder: str) -> None:
    (tmp_path / "balanced" / folder).mkdir(parents=True)
    (tmp_path / "balanced" / folder / "a.png").write_bytes(png(image(0)))
    with pytest.raises(
        InputError,
        match=r"a\.png: found class .*; expected U\+4E00, 一, or a name",
    ):
        combine(legacy=(tmp_path / "balanced",), output=tmp_path / "originals")


def test_one_unknown_image_makes_the_whole_set_unknown(
    arrays: Path, codh_tree: Callable[..., Path], tmp_path: Path
) -> None:
    combine((codh_tree({"U+4E00": 9}, seed=77),), legacy=(arrays,), output=tmp_path / "originals")
    found = read_originals(tmp_path / "originals")
    assert found.lineage == "unknown" and np.bincount(found.origins).tolist() == [9, 30]


def test_an_original_that_is_in_both_stays_known(png: Encode, arrays: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "kkanji2" / "U+3042"
    folder.mkdir(parents=True)
    (folder / f"{0:016x}.png").write_bytes(png(image(0)))
    combine((tmp_path / "raw",), legacy=(arrays,), output=tmp_path / "originals")
    found = read_originals(tmp_path / "originals")
    (row,) = np.flatnonzero(found.origins == 0)
    assert found.images[row].tobytes() == image(0).tobytes() and found.source_names[found.sources[row]] == "raw"
    assert len(found.ids) == 30


def test_arrays_are_not_taken_for_originals(arrays: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"arrays of unknown lineage \(images.npy\); give them by --legacy"):
        combine((arrays,), output=tmp_path / "originals")


def break_images(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((30, 64, 63), np.uint8))


def break_images_kind(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((30, 64, 64), np.float32))


def cut_images(folder: Path) -> None:
    data = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(data[:-1])


def shorten_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.zeros(29, np.int64))


def spoil_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([0] * 29 + [3]))


def negate_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([-1] + [0] * 29))


def remove_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def remove_classes(folder: Path) -> None:
    (folder / "index.json").unlink()


def pickle_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.array([{}] * 30, object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_images, r"images.npy: uint8 \(30, 64, 63\), expected uint8 \(N, 64, 64\)"),
        (break_images_kind, r"images.npy: float32 \(30, 64, 64\), expected uint8"),
        (cut_images, r"images.npy: .*expected an array in NumPy's format"),
        (shorten_labels, r"labels.npy: int64 \(29,\), expected whole numbers \(30,\)"),
        (spoil_labels, r"labels.npy: label 3 in row 29, expected 0 to 2"),
        (negate_labels, r"labels.npy: label -1 in row 0, expected 0 to 2"),
        (remove_labels, r"labels.npy"),
        (remove_classes, r"index.json: No such file"),
        (pickle_labels, r"labels.npy: .*expected an array in NumPy's format"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    arrays: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(arrays)
    with pytest.raises(InputError, match=message):
        combine(legacy=(arrays,), output=tmp_path / "originals")
    assert not (tmp_path / "originals").exists()
