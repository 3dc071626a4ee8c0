from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kkanji.predict import load_character
from shards import InputError

SAMPLE = Path(__file__).parents[2] / "sample" / "kkanji2"


@pytest.fixture
def character() -> NDArray[np.uint8]:
    return np.asarray(Image.open(sorted((SAMPLE / "U+4E09").iterdir())[0]))


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_an_image_of_the_data_is_taken_as_it_is(tmp_path: Path, character: NDArray[np.uint8]) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(character))
    assert np.array_equal(load_character(path), character)


def test_dark_ink_on_light_paper_is_inverted(tmp_path: Path, character: NDArray[np.uint8]) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(255 - character))
    assert np.array_equal(load_character(path), character)


def test_colour_and_transparency(tmp_path: Path, character: NDArray[np.uint8]) -> None:
    paper = Image.merge("RGBA", [Image.fromarray(np.zeros_like(character))] * 3 + [Image.fromarray(character)])
    assert np.array_equal(load_character(saved(tmp_path / "x.png", paper)), character)


@pytest.mark.parametrize("size", [(200, 100), (30, 60), (1, 500), (64, 63)])
def test_other_sizes_are_fitted(tmp_path: Path, size: tuple[int, int]) -> None:
    white = Image.new("L", (size[0] + 2, size[1] + 2))
    white.paste(255, (1, 1, size[0] + 1, size[1] + 1))
    fitted = load_character(saved(tmp_path / "x.png", white))
    assert fitted.shape == (64, 64)
    assert fitted.dtype == np.uint8


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        load_character(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: not a readable image"):
        load_character(tmp_path / "text.png")
    data = saved(tmp_path / "cut.png", Image.effect_noise((64, 64), 80)).read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.png: not a readable image"):
        load_character(tmp_path / "cut.png")
