"""The preparation inside an ONNX file, against that of image files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kkanji.checkpoint.graph_preparation import Preparation
from kkanji.glyphs import render_glyph
from kkanji.inference.image_files import load_character

SAMPLE = sorted((Path(__file__).parents[3] / "sample" / "kkanji2").glob("U+4E0*/*.png"))


def in_graph(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    prepared: NDArray[np.float32] = Preparation()(torch.from_numpy(gray.copy())[None, None])[0, 0].numpy()
    return prepared


def overlap(one: NDArray[np.float32], other: NDArray[np.uint8]) -> float:
    """The ink that two prepared images share, of the ink of either."""
    ink, theirs = one > 127, other > 127
    return float((ink & theirs).sum() / (ink | theirs).sum())


def picture(height: int, width: int, paper: int, ink: int, character: str = "永") -> NDArray[np.uint8]:
    """A typeset character with a margin of paper, uint8 [height, width]."""
    side = min(height, width)
    share = np.zeros((height, width))
    top, left = (height - side) // 2, (width - side) // 2
    share[top : top + side, left : left + side] = render_glyph(character, side) / 255
    return (paper + (ink - paper) * share).astype(np.uint8)


@pytest.mark.parametrize("size", [(200, 200), (150, 310), (301, 160), (400, 401)])
@pytest.mark.parametrize(("paper", "ink"), [(0, 255), (255, 0), (190, 40), (60, 230), (128, 20)])
def test_pictures_come_out_as_from_files(tmp_path: Path, size: tuple[int, int], paper: int, ink: int) -> None:
    gray = picture(*size, paper, ink)
    Image.fromarray(gray).save(tmp_path / "x.png")
    assert overlap(in_graph(gray), load_character(tmp_path / "x.png")) > 0.8  # the same, but for half a pixel's shift


def test_paper_need_not_be_even(tmp_path: Path) -> None:
    shadow = np.linspace(0.6, 1, 240)[None, :]
    gray = (picture(240, 240, 230, 50) * shadow).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "x.png")
    assert overlap(in_graph(gray), load_character(tmp_path / "x.png")) > 0.8


def test_images_like_the_datas_are_left_as_they_are() -> None:
    assert len(SAMPLE) > 10
    for path in SAMPLE[::40]:
        character = np.asarray(Image.open(path))
        assert np.array_equal(in_graph(character), load_character(path))
        assert np.array_equal(in_graph(255 - character), in_graph(character))


def test_a_blank_image_is_black() -> None:
    assert not in_graph(np.full((80, 80), 255, np.uint8)).any()
