"""show: the sheet holds the images asked for, and nothing is overwritten unasked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shards import InputError
from tools.originals import read_originals, read_split
from tools.pack import pack
from tools.show import COLUMNS, MARGIN, TILE_HEIGHT, TILE_WIDTH, show

COUNTS = {"U+4E00": 30, "U+4E01": 12}


@pytest.fixture
def folder(originals_folder: Callable[..., Path]) -> Path:
    return originals_folder(COUNTS)


def tiles(sheet: Path, count: int) -> list[bytes]:
    """The images on a sheet."""
    pixels: NDArray[np.uint8] = np.asarray(Image.open(sheet))
    columns = min(count, COLUMNS)
    assert pixels.shape == (-(-count // columns) * TILE_HEIGHT, columns * TILE_WIDTH)
    corners = (divmod(number, columns) for number in range(count))
    starts = ((row * TILE_HEIGHT + MARGIN, column * TILE_WIDTH + MARGIN) for row, column in corners)
    return [pixels[top : top + 64, left : left + 64].tobytes() for top, left in starts]


def test_a_sheet_of_one_class_and_split_holds_its_images(folder: Path, tmp_path: Path) -> None:
    combined = read_originals(folder)
    rows = read_split(combined).rows("train")
    expected = sorted(pixels.tobytes() for pixels in combined.images[rows[combined.labels[rows] == 0]])
    pack(folder, output=tmp_path / "set")
    for source in (folder, tmp_path / "set"):
        output = tmp_path / f"{source.name}.png"
        show(source, output=output, split="train", label="U+4E00")
        assert sorted(tiles(output, len(expected))) == expected


def test_a_sheet_of_everything_holds_everything(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set")
    expected = sorted(pixels.tobytes() for pixels in read_originals(folder).images)
    for source in (folder, tmp_path / "set"):
        show(source, output=tmp_path / f"{source.name}.png")
        assert sorted(tiles(tmp_path / f"{source.name}.png", 42)) == expected


def test_a_smaller_sheet_is_a_seeded_choice(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        show(folder, output=tmp_path / f"{name}.png", count=5, seed=seed)
    first, again, other = (tiles(tmp_path / f"{name}.png", 5) for name in "abc")
    assert first == again != other and len(set(first)) == 5


def test_a_sheet_is_kept_unless_told(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheet.png"
    output.write_text("mine")
    with pytest.raises(InputError, match=r"sheet.png: already exists; choose another --output or --overwrite"):
        show(folder, output=output)
    assert output.read_text() == "mine"
    show(folder, output=output, overwrite=True)
    assert len(tiles(output, 42)) == 42


def test_what_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set")
    cases: tuple[tuple[Path, dict[str, Any], str], ...] = (
        (folder, {"split": "dev"}, "no split 'dev'; expected one of train, val, test"),
        (tmp_path / "set", {"split": "dev"}, "no split 'dev'; it has: train, val"),
        (folder, {"label": "U+4E02"}, r"--label U\+4E02: no class of .*; its 2 classes are in index.json"),
        (folder, {"label": "4E00"}, r"--label: found '4E00', expected U\+ and four or five"),
        (folder, {"label": "U+4E00", "split": "test"}, r"no image of U\+4E00 in test"),
        (folder, {"count": 0}, "--count 0: expected 1 or more"),
        (tmp_path, {}, "neither dataset.json nor originals.json in it"),
        (tmp_path / "missing", {}, "neither dataset.json nor originals.json in it"),
    )
    for source, options, message in cases:
        with pytest.raises(InputError, match=message):
            show(source, output=tmp_path / "sheet.png", **options)
    assert not (tmp_path / "sheet.png").exists()
