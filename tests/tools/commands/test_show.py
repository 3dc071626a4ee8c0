"""show: the sheet holds the requested images, and nothing is overwritten without --overwrite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shards import InputError
from tools.build.offline_augment import find_recipe
from tools.commands.combine import combine
from tools.commands.convert import convert
from tools.commands.pack import pack
from tools.commands.show import Kind, show
from tools.commands.split import split
from tools.ingest.originals import read_originals, read_split
from tools.view.contact_sheet import COLUMNS, MARGIN, TILE_HEIGHT, TILE_WIDTH

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
        show(str(source), output=output, split="train", label="U+4E00")
        assert sorted(tiles(output, len(expected))) == expected


def test_a_sheet_of_everything_holds_everything(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set")
    expected = sorted(pixels.tobytes() for pixels in read_originals(folder).images)
    for source in (folder, tmp_path / "set"):
        show(str(source), output=tmp_path / f"{source.name}.png")
        assert sorted(tiles(tmp_path / f"{source.name}.png", 42)) == expected


def test_a_smaller_sheet_is_a_seeded_choice(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        show(str(folder), output=tmp_path / f"{name}.png", count=5, seed=seed)
    first, again, other = (tiles(tmp_path / f"{name}.png", 5) for name in "abc")
    assert first == again != other and len(set(first)) == 5


def test_a_sheet_is_kept_without_overwrite(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheet.png"
    output.write_text("mine")
    with pytest.raises(InputError, match=r"sheet.png: already exists; choose another --output$"):
        show(str(folder), output=output)
    with pytest.raises(InputError, match=r"sheet.png: not replaced: `show` did not make it; choose another --output"):
        show(str(folder), output=output, overwrite=True)
    assert output.read_text() == "mine"


@pytest.mark.parametrize("kind", ["sheet", "variants", "balance", "card"])
def test_what_show_made_is_replaced_with_overwrite(folder: Path, tmp_path: Path, kind: Kind) -> None:
    output = tmp_path / "shown"
    show(str(folder), kind=kind, output=output)
    first = output.read_bytes()
    with pytest.raises(InputError, match=r"shown: already exists; choose another --output or --overwrite"):
        show(str(folder), kind=kind, output=output, label="U+4E00")
    show(str(folder), kind=kind, output=output, label="U+4E00", overwrite=True)
    assert output.read_bytes() != first
    if kind != "card":
        with Image.open(output) as picture:
            assert picture.format == "PNG" and picture.text["Software"] == "kkanji show"  # type: ignore[attr-defined]


def test_variants_are_one_original_and_what_balance_would_make_of_it(folder: Path, tmp_path: Path) -> None:
    show(str(folder), kind="variants", label="U+4E01", count=6, output=tmp_path / "v.png")
    first, *others = tiles(tmp_path / "v.png", 6)
    original = np.frombuffer(first, np.uint8).reshape(1, 64, 64)
    combined = read_originals(folder)
    assert first in {pixels.tobytes() for pixels in combined.images[combined.labels == 1]}
    expected = find_recipe("policy", 1)(np.repeat(original, 5, axis=0), 0, np.arange(1, 6))
    assert others == [pixels.tobytes() for pixels in expected]
    show(str(folder), kind="variants", label="U+4E01", count=6, recipe="legacy", output=tmp_path / "o.png")
    assert tiles(tmp_path / "o.png", 6)[0] == first and not set(tiles(tmp_path / "o.png", 6)) & set(others)


def test_a_sheet_of_one_source(codh_tree: Callable[..., Path], tmp_path: Path) -> None:
    one, two = codh_tree({"U+4E00": 3}, name="one"), codh_tree({"U+4E00": 4}, seed=1, name="two")
    combine((one, two), output=tmp_path / "both")
    show(str(tmp_path / "both"), source="two", output=tmp_path / "sheet.png")
    rows = {pixels.tobytes() for pixels in np.load(tmp_path / "both" / "images.npy")}
    shown = tiles(tmp_path / "sheet.png", 4)
    assert len(set(shown)) == 4 and set(shown) < rows
    with pytest.raises(InputError, match=r"--source three: .* has one, two"):
        show(str(tmp_path / "both"), source="three", output=tmp_path / "other.png")
    split(tmp_path / "both", val=0.5)
    pack(tmp_path / "both", output=tmp_path / "set")
    with pytest.raises(InputError, match=r"--source two: .* is a shard set, which records no sources"):
        show(str(tmp_path / "set"), source="two", output=tmp_path / "other.png")


def test_image_layout_and_compressed_sets_are_shown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KKANJI_CACHE", str(tmp_path / "cache"))
    pack(folder, output=tmp_path / "set")
    show(str(tmp_path / "set"), output=tmp_path / "plain.png")
    for name, options in (("png", {"layout": "image"}), ("zstd", {"compression": "zstd"})):
        convert(str(tmp_path / "set"), output=tmp_path / name, **options)  # type: ignore[arg-type]
        show(str(tmp_path / name), output=tmp_path / f"{name}.png")
        assert tiles(tmp_path / f"{name}.png", 42) == tiles(tmp_path / "plain.png", 42)


def test_the_balance_plot_is_a_picture(folder: Path, tmp_path: Path) -> None:
    show(str(folder), kind="balance", output=tmp_path / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
    assert min(pixels.shape) > 400 and pixels.std() > 10


def test_the_plot_shows_each_split(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr("tools.commands.show.draw_balance", lambda counts, _: told.update(counts) or b"")
    show(str(folder), kind="balance", output=tmp_path / "plot.png")
    combined, table = read_originals(folder), read_split(read_originals(folder))
    assert {name: found.tolist() for name, found in told.items()} == {
        name: combined.counts(table.rows(name)).tolist() for name in ("train", "val")
    }


def test_what_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    pack(folder, output=tmp_path / "set")
    cases: tuple[tuple[Path, dict[str, Any], str], ...] = (
        (folder, {"split": "dev"}, "no split 'dev'; expected one of train, val, test"),
        (tmp_path / "set", {"split": "dev"}, "no split 'dev'; it has: train, val"),
        (folder, {"label": "U+4E02"}, r"--label U\+4E02: no class of .*; its 2 classes are in index.json"),
        (folder, {"label": "4E00"}, r"--label: found '4E00', expected U\+ and four or five"),
        (folder, {"label": "U+4E00", "split": "test"}, r"no image of U\+4E00 in test"),
        (folder, {"kind": "variants", "augment": 9}, "--augment 9: expected 0 to 2"),
        (folder, {"count": 0}, "--count 0: expected 1 or more"),
        (tmp_path, {}, "neither dataset.json nor originals.json in it"),
        (tmp_path / "missing", {}, "neither dataset.json nor originals.json in it"),
    )
    for source, options, message in cases:
        with pytest.raises(InputError, match=message):
            show(str(source), output=tmp_path / "sheet.png", **options)
    assert not (tmp_path / "sheet.png").exists()


def test_a_name_that_promises_another_format_is_refused(folder: Path, tmp_path: Path) -> None:
    for kind, suffix in (("sheet", ".xyz"), ("balance", ".svg"), ("card", ".png")):
        with pytest.raises(InputError, match=rf"--kind {kind} writes \.(png|md); give such a name"):
            show(str(folder), kind=kind, output=tmp_path / f"x{suffix}")  # type: ignore[arg-type]
