"""What people give as an image of a character, and what comes of it."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kkanji.inference import image_files
from kkanji.inference.image_files import FORMATS, BlankImage, load_character, load_characters
from shards import InputError

SAMPLE = sorted((Path(__file__).parents[3] / "sample" / "kkanji2" / "U+4E09").iterdir())[0]
Pixels = NDArray[np.uint8]


@pytest.fixture
def character() -> Pixels:
    return np.asarray(Image.open(SAMPLE))


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_an_image_of_the_data_is_taken_as_it_is(tmp_path: Path, character: Pixels) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(character))
    assert np.array_equal(load_character(path), character)


def test_dark_ink_on_light_paper_is_inverted(tmp_path: Path, character: Pixels) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(255 - character))
    assert np.array_equal(load_character(path), character)


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_nothing(tmp_path: Path, character: Pixels, ink: int) -> None:
    """Black or white, on transparent paper."""
    solid = Image.fromarray(np.full_like(character, ink))
    image = Image.merge("RGBA", [solid] * 3 + [Image.fromarray(character)])
    assert np.array_equal(load_character(saved(tmp_path / "x.png", image)), character)


def test_a_palette_with_a_transparent_colour(tmp_path: Path, character: Pixels) -> None:
    image = Image.fromarray(np.where(character > 127, 1, 0).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "x.png", transparency=0)
    assert np.array_equal(load_character(tmp_path / "x.png"), np.where(character > 127, 255, 0))


@pytest.mark.parametrize("white", [1.0, 255.0, 4095.0, 65535.0])
def test_deep_images(tmp_path: Path, character: Pixels, white: float) -> None:
    levels = character / 255 * white
    image = Image.fromarray(levels.astype(np.uint16) if white > 255 else levels.astype(np.float32))
    path = saved(tmp_path / ("x.png" if white > 255 else "x.tif"), image)
    assert np.abs(load_character(path).astype(int) - character).max() <= 1


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path, character: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned clockwise by 90 degrees
    Image.fromarray(np.rot90(character)).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(load_character(tmp_path / "x.png"), character)


@pytest.mark.parametrize("size", [(200, 100), (30, 60), (50, 100), (64, 63)])
def test_other_sizes_are_fitted(tmp_path: Path, size: tuple[int, int]) -> None:
    white = Image.new("L", (3 * size[0], 3 * size[1]))
    white.paste(255, (size[0], size[1], 2 * size[0], 2 * size[1]))
    fitted = load_character(saved(tmp_path / "x.png", white))
    assert fitted.shape == (64, 64) and fitted.dtype == np.uint8
    width = size[0] / size[1]
    assert fitted.max(axis=0).astype(bool).sum() == pytest.approx(64 * min(1, max(width, (0.87 * width) ** 0.5)), abs=2)
    assert fitted.max(axis=1).astype(bool).sum() == pytest.approx(64 * min(1, 1 / width), abs=2)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "TIFF", "WEBP"])
def test_formats(tmp_path: Path, character: Pixels, kind: str) -> None:
    Image.fromarray(character).save(tmp_path / "x", kind)
    assert np.corrcoef(load_character(tmp_path / "x").ravel(), character.ravel())[0, 1] > 0.95


def test_every_page_of_a_tiff_is_read(tmp_path: Path, character: Pixels) -> None:
    """A blank one is named, and those after it are read."""
    pages = [Image.fromarray(pixels) for pixels in (character, np.full_like(character, 9), character.T)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    first, blank, last = load_characters(tmp_path / "x.tif")
    assert not isinstance(first, InputError) and np.array_equal(first, character)
    assert not isinstance(last, InputError) and np.array_equal(last, character.T)
    assert str(blank) == f"{tmp_path}/x.tif, page 2: every pixel is 9; expected a picture of one character"


def test_too_many_pages_are_refused(tmp_path: Path, character: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MOST_PAGES", 1)
    Image.fromarray(character).save(tmp_path / "x.tif", save_all=True, append_images=[Image.fromarray(character)])
    with pytest.raises(InputError, match=r"x\.tif: 2 pages, expected at most 1; divide the file"):
        load_character(tmp_path / "x.tif")


def test_only_the_first_image_of_an_animation_is_meant(tmp_path: Path, character: Pixels) -> None:
    Image.fromarray(character).save(tmp_path / "x.gif", save_all=True, append_images=[Image.new("L", (64, 64), 9)])
    (found,) = load_characters(tmp_path / "x.gif")
    assert not isinstance(found, InputError) and np.array_equal(found, character)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_refused(tmp_path: Path, level: int) -> None:
    with pytest.raises(InputError, match=rf"x\.png: every pixel is {level}"):
        load_character(saved(tmp_path / "x.png", Image.new("L", (64, 64), level)))


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (3, 11)])
def test_an_image_of_too_few_pixels_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    few = Image.effect_noise(size, 200)
    with pytest.raises(
        InputError, match=rf"x\.png: {size[0]}x{size[1]} pixels are too few for a character; expected 12"
    ):
        load_character(saved(tmp_path / "x.png", few))


def test_25_million_pixels_are_read(tmp_path: Path) -> None:
    with pytest.raises(BlankImage, match="every pixel is 255"):
        load_character(saved(tmp_path / "x.png", Image.new("1", (5000, 5000), 1)))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        load_character(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: not a readable image"):
        load_character(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"a folder that may not be read"):
        load_character(tmp_path)


@pytest.mark.parametrize("size", [(5001, 5000), (16000, 16000)])
def test_an_image_too_large_is_refused_without_being_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "x.png", Image.new("1", size))
    with pytest.raises(InputError, match=r"x\.png: (5001x5000 pixels|hundreds of millions of pixels)"):
        load_character(path)


@given(st.sampled_from(FORMATS), st.data())
def test_damaged_bytes_give_an_image_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    Image.open(SAMPLE).save(buffer, kind)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        assert load_character(path).shape == (64, 64)
    except InputError as error:
        assert str(path) in str(error)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
OTHER = ("DDS", "ICNS", "ICO", "MSP", "PCX", "PDF", "PPM", "SGI", "SPIDER", "TGA", "XBM")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".eps", ""])
def test_no_file_starts_a_program_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Pillow's decoder of EPS runs Ghostscript, here a stand-in that would leave a mark."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/mark\necho 10.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / f"crop{suffix}").write_bytes(EPS)
    with pytest.raises(
        InputError, match="not a readable image; expected one of AVIF, BMP, GIF, JPEG, JPEG2000, PNG, TIFF, WEBP"
    ):
        load_character(tmp_path / f"crop{suffix}")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", OTHER)
def test_no_other_decoder_is_reached(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    try:
        Image.new("1" if kind in ("MSP", "XBM") else "L", (64, 64), 1).save(buffer, kind)
    except (OSError, ValueError):
        Image.new("RGB", (64, 64), "white").save(buffer, kind)
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    opened = [name for name in Image.OPEN if name not in FORMATS]
    for name in opened:
        monkeypatch.setitem(Image.OPEN, name, (lambda *_: pytest.fail("reached"), lambda _: True))
    with pytest.raises(InputError, match="not a readable image"):
        load_character(tmp_path / "x.png")
    assert len(opened) > 20


def test_a_file_larger_than_is_believed_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="1,099,511,627,776 bytes, expected at most"):
        load_character(tmp_path / "x.png")
