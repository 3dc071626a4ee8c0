"""Characters in pictures as people have them, drawn here from the sample."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kkanji.inference.ink import find_ink, ink_of_character, lay_out, without_specks, without_strips

Pixels = NDArray[np.uint8]
Levels = NDArray[np.float32]
SIDE = 200
SAMPLE = Path(__file__).parents[3] / "sample" / "kkanji2"
CHARACTERS = [sorted((SAMPLE / name).iterdir())[2] for name in ("U+4E16", "U+4E2D", "U+4E09", "U+4E0B")]


@pytest.fixture(params=CHARACTERS, ids=lambda path: path.parent.name)
def ink(request: pytest.FixtureRequest) -> Levels:
    """A character's ink from 0 to 1, cropped to it, with a margin."""
    pixels = cv2.resize(np.asarray(Image.open(request.param)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    solid = np.where(without_specks(pixels > 128), np.float32(1), 0)
    x, y, width, height = cv2.boundingRect((solid > 0).astype(np.uint8))
    return np.pad(solid[y : y + height, x : x + width], 4).astype(np.float32)


def on(ink: Levels, paper: float | Levels = 190, dark: float = 40) -> Levels:
    """Gray levels of ink on paper, with grain."""
    grain = np.random.default_rng(0).normal(0, 4, ink.shape)
    return (paper + ink * (dark - np.asarray(paper)) + grain).astype(np.float32)


def picture(levels: Levels) -> Pixels:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def likeness(levels: Levels, ink: Levels) -> float:
    """How well what is found in a picture correlates with the character laid out as the data's are."""
    return float(np.corrcoef(find_ink(picture(levels)).ravel(), lay_out(ink).ravel())[0, 1])


def sloped(shape: tuple[int, ...]) -> Levels:
    """Light that falls off to a third from one side to the other."""
    return np.broadcast_to(np.linspace(230, 80, shape[1], dtype=np.float32), shape)


def shaded(shape: tuple[int, ...]) -> Levels:
    return np.broadcast_to(np.where(np.arange(shape[1]) < shape[1] // 2, np.float32(200), 110), shape)


WAYS: dict[str, Callable[[Levels], Levels]] = {
    "light paper": on,
    "paper darker than mid-gray": lambda ink: on(ink, 100, 15),
    "faint ink": lambda ink: on(ink, 190, 150),
    "light ink": lambda ink: on(ink, 60, 230),
    "uneven light": lambda ink: on(ink, sloped(ink.shape), 30),
    "half in shadow": lambda ink: on(ink, shaded(ink.shape), 25),
    "margins": lambda ink: on(np.pad(ink, SIDE)),
    "off centre": lambda ink: on(np.pad(ink, ((0, 300), (150, 0)))),
    "black strip": lambda ink: np.pad(on(ink), ((0, 0), (25, 0)), constant_values=5),
    "black surround": lambda ink: np.pad(on(ink), 40, constant_values=5),
    "white surround": lambda ink: np.pad(on(ink, 150), 40, constant_values=250),
    "frame": lambda ink: on(np.pad(np.pad(ink, 12), 8, constant_values=1)),
    "frame within paper": lambda ink: on(np.pad(np.pad(np.pad(ink, 12), 5, constant_values=1), 7)),
    "rule": lambda ink: on(np.pad(np.pad(ink, ((0, 0), (0, 10))), ((0, 0), (0, 5)), constant_values=1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_character_is_found_and_laid_out_like_the_data(ink: Levels, way: str) -> None:
    assert likeness(WAYS[way](ink), ink) > 0.93


@pytest.mark.parametrize("turns", range(4))
def test_parts_of_neighbours_are_cut(ink: Levels, turns: int) -> None:
    """They end at the picture's edge, as wide there as anywhere."""
    beside, deep = np.pad(ink, ((30, 30), (0, 0))), 12 if turns % 2 else 20
    beside[:deep, 30:50] = beside[-deep:, 60:75] = beside[-deep:, 90:110] = 1
    assert likeness(on(np.rot90(beside, turns)), np.rot90(ink, turns)) > 0.9


def test_strokes_that_end_at_the_edge_are_kept() -> None:
    """A three cropped to its ink: the upper and the lower stroke are round where they touch the edges."""
    three = np.zeros((SIDE, SIDE), np.uint8)
    for y in (15, 100, 184):
        cv2.ellipse(three, (100, y), (90, 15), 0, 0, 360, 1, -1)
    assert likeness(on(three.astype(np.float32)), three.astype(np.float32)) > 0.93


def stroked(*, corner: bool) -> NDArray[np.bool_]:
    """A character whose upper stroke lies along the edge, in a rim askew that reaches a corner if so wanted."""
    mask = np.zeros((100, 100), np.bool_)
    mask[40:80, 40:60] = True
    mask[:8, 20:80] = True
    mask[np.arange(100)[:, None] + np.arange(100) / 10 < 12 * corner] = True
    return mask


@pytest.mark.parametrize("turns", range(4))
def test_a_stroke_along_an_edge_is_kept_and_a_rim_that_reaches_a_corner_is_not(turns: int) -> None:
    stroke, rim = (
        np.rot90(ink_of_character(np.rot90(stroked(corner=corner), turns)), -turns) for corner in (False, True)
    )
    assert stroke[:8, 20:80].all() and not rim[:11, 0].any() and rim[40:80, 40:60].all()


def test_all_four_rims_of_a_surround_are_taken_out() -> None:
    character, surround = np.zeros((100, 100), np.bool_), np.ones((100, 100), np.bool_)
    character[30:70, 40:60], surround[6:94, 6:94] = True, False
    assert np.array_equal(ink_of_character(character | surround), character)


@pytest.mark.parametrize(("filled", "opaque"), [(True, 0.7), (False, 0.7), (False, 0.98)])
def test_ink_is_found_under_a_seal(ink: Levels, filled: bool, opaque: float) -> None:
    """Opaque lines are filled in from beside them."""
    colour = np.repeat(on(ink)[..., None], 3, axis=2)
    height, width = ink.shape
    corner, thickness = (width // 3, height // 3), -1 if filled else 4
    stamped = cv2.rectangle(colour.copy(), corner, (width, height), (180, 50, 40), thickness)
    assert likeness(colour + opaque * (stamped - colour), ink) > 0.9


def test_a_left_part_that_is_cut_off_is_the_character_s_own(ink: Levels) -> None:
    """Characters stand in columns, and many have two parts side by side."""
    both = np.pad(ink, ((0, 0), (40, 0)))
    both[len(ink) // 2 - 25 : len(ink) // 2 + 25, :28] = 1
    assert likeness(on(both), both) > 0.93


def test_white_ink_on_blue_paper_is_no_seal(ink: Levels) -> None:
    colour = np.stack([on(ink, paper, 230) for paper in (38, 52, 110)], axis=-1)
    assert likeness(colour, ink) > 0.93


def test_the_other_side_of_the_page_is_no_ink(ink: Levels) -> None:
    through = np.maximum(ink, 0.35 * ink[::-1, ::-1])
    assert likeness(on(through), ink) > 0.93


def test_grain_alone_is_no_ink() -> None:
    rng = np.random.default_rng(0)
    for level, deviation in ((200, 1), (200, 12), (128, 40)):
        assert not find_ink(picture(rng.normal(level, deviation, (SIDE, SIDE)).astype(np.float32))).any()


def test_a_narrow_character_is_widened_halfway() -> None:
    """As if the picture had been squeezed: from a quarter of the height to a half of the usual 0.87."""
    bar = np.pad(np.ones((120, 30), np.float32), 80)
    columns = np.flatnonzero(find_ink(picture(on(bar))).max(axis=0) > 128)
    assert len(columns) == pytest.approx(64 * (0.25 * 0.87) ** 0.5, abs=1)


def test_blur_is_taken_away(ink: Levels) -> None:
    """So that strokes stay apart which thresholding alone would join."""
    blurred = np.asarray(cv2.GaussianBlur(on(ink), (0, 0), 6), np.float32)
    assert likeness(blurred, ink) > 0.93


def test_proportions_are_kept_and_the_character_is_in_the_middle() -> None:
    one = np.pad(np.ones((30, 120), np.float32), 80)
    rows, columns = (np.flatnonzero(find_ink(picture(on(one))).max(axis=axis) > 128) for axis in (1, 0))
    assert len(columns) >= 63 and len(rows) == pytest.approx(16, abs=1)
    assert abs(rows.mean() - 31.5) <= 1


def test_a_character_that_is_a_box_is_no_frame() -> None:
    """Typeset, with a margin: neither is the margin a strip, nor the box a frame."""
    box = np.zeros((220, 220), np.float32)
    cv2.rectangle(box, (30, 30), (190, 190), 1, 12)
    box[95:115, 70:150] = 1
    assert without_strips(picture(on(box))).shape == box.shape
    assert likeness(on(box), box) > 0.93


def test_a_stroke_over_the_whole_width_is_no_strip() -> None:
    """A one cropped to its ink: its edges are not straight."""
    one = np.zeros((40, SIDE), np.float32)
    for x in range(SIDE):
        one[int(14 - 12 * x / SIDE) : int(36 - 12 * x / SIDE), x] = 1
    assert without_strips(picture(on(one))).shape == one.shape
    assert likeness(on(one), one) > 0.93


@pytest.mark.parametrize("angle", [0, 1, 2.5])
@pytest.mark.parametrize("levels", [(100, 240), (0, 255), (60, 130)])
def test_light_that_falls_off_is_no_stroke(angle: float, levels: tuple[int, int]) -> None:
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    for slope in (x * np.cos(angle) + y * np.sin(angle), np.hypot(x - np.cos(angle), y - np.sin(angle))):
        light = (slope - slope.min()) / (slope.max() - slope.min()) * (levels[1] - levels[0]) + levels[0]
        assert not find_ink(picture(light.astype(np.float32))).any()
