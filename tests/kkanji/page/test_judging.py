"""The page of a model with an index: its neighbours vote, and what shows none of its characters is marked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kkanji.glyphs import render_glyph
from kkanji.inference.predict import Judged, Predictor
from kkanji.neighbours.made import NOTHING, OTHER, SEVERAL, make
from tests.kkanji.page.browser import Browser
from tests.kkanji.page.test_page import prepared, read

SAMPLE = sorted((Path(__file__).parents[3] / "sample" / "kkanji2").glob("*/*.png"))
TEXTS = {NOTHING: "no writing", SEVERAL: "more than one character", OTHER: "another script"}


def judged(indexed: Path, browser: Browser) -> Judged:
    """What predict says of the image that the page gave its model."""
    return Predictor(indexed, torch.device("cpu")).judged(prepared(browser)[None], 5)[0]


def is_as_predicted(browser: Browser, expected: Judged) -> None:
    """With small weights, to which a network that has learnt nothing is sensitive."""
    assert browser.evaluate("state.found.score") == pytest.approx(expected.unknown, abs=0.2)
    shown = browser.text("#doubt") if browser.evaluate("!at('doubt').hidden") else ""
    assert (TEXTS[expected.doubt] in shown) if expected.doubt else shown == ""


@pytest.mark.parametrize("file", SAMPLE[::800], ids=lambda path: path.parent.name)
def test_a_sample_character_is_read_as_by_predict(judging: Browser, indexed: Path, file: Path) -> None:
    judging.drop("#board", file)
    found, expected = read(judging), judged(indexed, judging)
    assert np.array_equal(prepared(judging), np.asarray(Image.open(file)))
    assert found[0][0] == expected.guesses[0].character
    assert [value for _, value in found] == pytest.approx([guess.probability for guess in expected.guesses], abs=0.05)
    is_as_predicted(judging, expected)


def test_a_character_of_the_index_is_read_and_not_doubted(judging: Browser, indexed: Path, tmp_path: Path) -> None:
    Image.fromarray(render_glyph("國", 64)).save(tmp_path / "x.png")  # as it is in the index
    judging.drop("#board", tmp_path / "x.png")
    assert read(judging)[0][0] == "國" and judging.evaluate("at('doubt').hidden")
    assert judged(indexed, judging).doubt is None


@pytest.mark.parametrize("kind", ["noise", "a page", "Latin"])
def test_what_is_no_character_is_marked_as_by_predict(
    judging: Browser, indexed: Path, tmp_path: Path, kind: str
) -> None:
    characters = np.stack([np.asarray(Image.open(path)) for path in SAMPLE[::300]])
    Image.fromarray(make(characters, kind, 1, seed=4)[0]).save(tmp_path / "x.png")
    judging.drop("#board", tmp_path / "x.png")
    read(judging)
    expected = judged(indexed, judging)
    assert expected.doubt
    is_as_predicted(judging, expected)
    judging.click("#language")
    assert judging.text("#doubt").startswith("モデルの知っている文字ではなさそうです")


def test_a_drawn_latin_letter_is_judged_as_by_predict(judging: Browser, indexed: Path) -> None:
    left, top, width, height = judging.box("#drawing")
    for points in ([(0.2, 0.9), (0.5, 0.1), (0.8, 0.9)], [(0.33, 0.6), (0.67, 0.6)]):  # an A
        judging.stroke([(left + width * x, top + height * y) for x, y in points])
    judging.wait("state.strokes.length === 2")
    read(judging)
    is_as_predicted(judging, judged(indexed, judging))


def test_the_page_says_how_often_its_mark_is_predicts(judging: Browser, indexed_page: Path) -> None:
    about = json.loads((indexed_page / "about.js").read_text().removeprefix("const ABOUT = ").rstrip(";\n"))
    agreement = about["agreement"]
    assert agreement["same"] >= agreement["images"] - 1 and agreement["marks"] >= agreement["images"] - 1
    assert f"its mark of what is no character for {agreement['marks']};" in judging.text("#agreement")
    assert "marks most" in judging.text("#known")
