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


def in_graph(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    prepared: NDArray[np.float32] = Preparation()(torch.from_numpy(gray)[None, None])[0, 0].numpy()
    return prepared


def picture(height: int, width: int, paper: int, ink: int) -> NDArray[np.uint8]:
    """A typeset character with a margin of paper, uint8 [height, width]."""
    side = min(height, width)
    share = np.zeros((height, width))
    top, left = (height - side) // 2, (width - side) // 2
    share[top : top + side, left : left + side] = render_glyph("永", side) / 255
    return (paper + (ink - paper) * share).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (200, 200), (40, 40), (90, 300), (301, 75), (65, 63), (3, 64)])
@pytest.mark.parametrize(("paper", "ink"), [(0, 255), (255, 0), (190, 40), (60, 230), (128, 20)])
def test_pictures_come_out_as_from_files(tmp_path: Path, size: tuple[int, int], paper: int, ink: int) -> None:
    """But for single levels: Pillow filters rows before columns where that is cheaper, and rounds in between."""
    gray = picture(*size, paper, ink)
    Image.fromarray(gray).save(tmp_path / "x.png")
    difference = np.abs(in_graph(gray) - load_character(tmp_path / "x.png"))
    assert difference.max() <= 20 and difference.mean() < 0.2


def test_a_clean_image_is_left_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    noise[[0, -1]], noise[:, [0, -1]] = 0, 0
    assert np.array_equal(in_graph(noise), noise)


def test_a_blank_image_is_black_or_blank() -> None:
    assert np.array_equal(in_graph(np.full((80, 80), 255, np.uint8)), np.zeros((64, 64)))
