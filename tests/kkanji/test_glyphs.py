"""Typeset characters: drawn, distinct, in their place, and spelled out where the font has none."""

import io

import numpy as np
import pytest
from fontTools.ttLib import TTFont

from kkanji.glyphs import code_point, font_path, font_subset, has_glyph, render_glyph

LACKING = ("\U00024fa3", "\U00029780", "\U00029dda", "\U00029e75")  # classes of Kuzushiji-Kanji


@pytest.mark.parametrize("size", [1, 24, 64, 200])
def test_a_glyph_has_the_size_asked_for_and_ink(size: int) -> None:
    glyph = render_glyph("深", size)
    assert glyph.shape == (size, size) and glyph.dtype == np.uint8
    assert glyph.any()


def test_different_characters_look_different() -> None:
    drawn = {render_glyph(character, 64).tobytes() for character in "深探士土己已巳一\ufa1d"}
    assert len(drawn) == 9


def test_a_character_lies_inside_the_square_and_in_its_middle() -> None:
    glyph = render_glyph("国", 100).astype(float)
    border = np.concatenate([glyph[0], glyph[-1], glyph[:, 0], glyph[:, -1]])
    assert not border.any()
    rows, columns = np.indices(glyph.shape)
    centre = (rows * glyph).sum() / glyph.sum(), (columns * glyph).sum() / glyph.sum()
    assert centre == pytest.approx((49.5, 49.5), abs=4)


def test_a_low_stroke_stays_where_a_writer_puts_it() -> None:
    """The em box is centred, not the ink: else 一 and a dash on the baseline would look the same."""
    rows = np.flatnonzero(render_glyph("一", 100).any(axis=1))
    assert 40 < rows.mean() < 60
    assert np.flatnonzero(render_glyph("、", 100).any(axis=1)).mean() > 60


@pytest.mark.parametrize("character", LACKING)
def test_a_character_without_a_glyph_is_spelled_out(character: str) -> None:
    assert not has_glyph(character)
    glyph = render_glyph(character, 64)
    columns = np.flatnonzero(glyph.any(axis=0))
    rows = np.flatnonzero(glyph.any(axis=1))
    assert columns[0] > 0 and columns[-1] < 63, "the text is cut"
    assert columns[-1] - columns[0] > 40 and rows[-1] - rows[0] < 24, "not a line of text"


def test_characters_without_a_glyph_differ_from_each_other_and_from_tofu() -> None:
    drawn = {render_glyph(character, 64).tobytes() for character in LACKING}
    assert len(drawn) == len(LACKING)


def test_a_glyph_is_cached_and_cannot_be_spoilt() -> None:
    glyph = render_glyph("山", 64)
    assert render_glyph("山", 64) is glyph
    with pytest.raises(ValueError, match="read-only"):
        glyph[0, 0] = 1


@pytest.mark.parametrize(("character", "size"), [("", 64), ("山", 0)])
def test_nothing_to_draw_is_refused(character: str, size: int) -> None:
    with pytest.raises(ValueError, match="expected a character and a positive size"):
        render_glyph(character, size)


def test_names_of_characters() -> None:
    assert code_point("深") == "U+6DF1"
    assert code_point(LACKING[0]) == "U+24FA3"


def test_a_subset_holds_the_characters_and_little_else() -> None:
    data = font_subset(["深", "探", LACKING[0]])
    assert len(data) < 10_000 < font_path().stat().st_size
    with TTFont(io.BytesIO(data)) as font:
        assert set(font.getBestCmap()) == {ord("深"), ord("探")}


def test_a_subset_is_the_same_each_time() -> None:
    assert font_subset("深探") == font_subset("深探")
