"""The page as a person uses it: drop, paste, draw, by keyboard, on a phone, in two languages, without a network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kkanji.glyphs import render_glyph
from kkanji.inference.image_files import load_character
from kkanji.inference.predict import Guess, Predictor
from tests.kkanji.page.browser import Browser
from tests.kkanji.page.conftest import CHARACTERS

READ = "state.found !== null && document.getElementById('status').innerText.startsWith('Read in')"


def picture(path: Path, character: str, *, side: int = 96, paper: int = 230, ink: int = 30) -> Path:
    """A typeset character in a margin of paper, as an image file."""
    share = np.pad(render_glyph(character, side) / 255, side // 8)
    Image.fromarray((paper + (ink - paper) * share).astype(np.uint8)).save(path)
    return path


def read(browser: Browser) -> list[tuple[str, float]]:
    """The readings shown, each with its probability."""
    browser.wait(READ)
    glyphs = browser.evaluate("[...document.querySelectorAll('.glyph')].map(each => each.textContent)")
    return list(zip(glyphs, browser.evaluate("state.found.readings.map(each => each.probability)"), strict=True))


def prepared(browser: Browser) -> NDArray[np.uint8]:
    """What the page shows as given to the model, uint8 [64, 64]."""
    pixels = browser.evaluate("[...at('prepared').getContext('2d').getImageData(0, 0, 64, 64).data]")
    return np.array(pixels, np.uint8).reshape(64, 64, 4)[..., 0]


def guesses(model: Path, image: NDArray[np.uint8]) -> list[Guess]:
    return list(Predictor(model, torch.device("cpu")).predict(image[None], 5)[0])


def test_a_dropped_image_is_read_as_predict_reads_it(browser: Browser, model: Path, tmp_path: Path) -> None:
    browser.drop("#board", picture(tmp_path / "x.png", "本"))
    found, expected = read(browser), guesses(model, prepared(browser))
    assert [character for character, _ in found] == [guess.character for guess in expected]
    assert [value for _, value in found] == pytest.approx([guess.probability for guess in expected], abs=0.03)


@pytest.mark.parametrize("side", [40, 64, 300])
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (190, 40), (20, 220)])
def test_the_image_is_prepared_as_by_predict(browser: Browser, tmp_path: Path, side: int, paper: int, ink: int) -> None:
    file = picture(tmp_path / "x.png", "國", side=side, paper=paper, ink=ink)
    browser.drop("#board", file)
    read(browser)
    assert np.abs(prepared(browser).astype(int) - load_character(file)).mean() < 0.5


def test_a_pasted_image_is_read(browser: Browser, tmp_path: Path) -> None:
    browser.copy_image(picture(tmp_path / "x.png", "大"))
    browser.press("v", control=True, commands=("paste",))
    assert len(read(browser)) == 5


def test_strokes_are_read_undone_and_cleared(browser: Browser) -> None:
    left, top, width, height = browser.box("#drawing")
    across = [(left + width * part, top + height / 2) for part in (0.2, 0.5, 0.8)]
    down = [(left + width / 2, top + height * part) for part in (0.2, 0.5, 0.8)]
    browser.stroke(across)
    read(browser)
    one = prepared(browser)
    browser.stroke(down)
    browser.wait("state.strokes.length === 2 && " + READ)
    two = prepared(browser)
    assert two.sum() > 1.5 * one.sum() and two[10:54, 30:34].max(axis=1).min() > 200  # white on black
    browser.press("z", control=True)
    browser.wait("state.strokes.length === 1 && " + READ)
    assert np.array_equal(prepared(browser), one)
    browser.press("Escape")
    assert browser.evaluate("state.strokes.length") == 0 and browser.text("#readings") == ""
    assert browser.box("#seen")[2:] == (0, 0)  # nor what the model was given


def test_everything_is_reached_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    browser.drop("#board", picture(tmp_path / "x.png", "木"))
    best = read(browser)[0][0]
    reached = []
    for _ in range(10):
        browser.press("Tab")
        reached.append(
            browser.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert ["language", "choose", "undo", "clear"] == reached[:4] and reached.count("BUTTON") == 5
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.press("1")
    browser.wait("document.getElementById('status').innerText.endsWith('copied.')")
    assert browser.evaluate("navigator.clipboard.readText()") == best


def test_nothing_is_called_but_the_folder_itself(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.drop("#board", picture(tmp_path / "x.png", "日"))
    read(browser)
    own = page.as_uri() + "/"
    assert all(address.startswith((own, "blob:")) for address in browser.requests) and browser.problems == []
    refused = browser.evaluate("fetch('http://127.0.0.1:9/').catch(error => error.message)")
    assert "Failed to fetch" in refused
    browser.wait("true")
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_it_fits_a_phone_and_speaks_japanese(browser: Browser, tmp_path: Path) -> None:
    browser.size(360, 740)
    assert browser.box("#language")[3] < 50  # one line
    browser.drop("#board", picture(tmp_path / "x.png", "國"))
    read(browser)
    browser.click("#language")
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    assert browser.text("h1") == "くずし字を読む" and "ミリ秒で読みました" in browser.text("#status")
    assert "仮名は含みません" in browser.text("#known") and browser.evaluate("document.documentElement.lang") == "ja"
    heights = browser.evaluate("[...document.querySelectorAll('button')].map(each => each.offsetHeight)")
    assert len(heights) == 9 and min(heights) >= 44  # as wide as a finger


def test_both_languages_say_the_same_things(browser: Browser) -> None:
    names = browser.evaluate("Object.values(TEXTS).map(each => Object.entries(each).map(([key, text]) => "
                             "[key, (text.match(/\\{\\w+\\}/g) ?? []).sort()]))")  # fmt: skip
    assert sorted(names[0]) == sorted(names[1])


def test_forms_of_a_character_are_shown_together(browser: Browser, tmp_path: Path) -> None:
    browser.drop("#board", picture(tmp_path / "x.png", "來"))
    read(browser)
    readings = browser.evaluate(
        "state.found.readings.map(each => [each.character, each.forms.map(form => ABOUT.characters[form]).join('')])"
    )
    assert dict(readings) == {
        each: next((pair for pair in ("国國", "來来") if each in pair), "") for each, _ in readings
    }


def test_what_is_no_character_is_doubted_or_refused(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("no image")
    browser.drop("#board", tmp_path / "x.txt")
    browser.wait("document.getElementById('status').innerText.includes('x.txt: not an image')")
    Image.new("L", (80, 80), 200).save(tmp_path / "blank.png")
    browser.drop("#board", tmp_path / "blank.png")
    browser.wait("document.getElementById('status').innerText.startsWith('The image is blank')")
    browser.evaluate("ABOUT.least_probability = 1.1")
    browser.drop("#board", picture(tmp_path / "x.png", "人"))
    read(browser)
    assert browser.text("#doubt").startswith("Perhaps none of the characters that the model knows")


def test_the_page_says_what_its_model_is(browser: Browser, page: Path) -> None:
    assert "fused_s: 13 characters of a set" in browser.text("#known") and "no kana" in browser.text("#known")
    about = json.loads((page / "about.js").read_text().removeprefix("const ABOUT = ").rstrip(";\n"))
    assert sorted(about["characters"]) == sorted(CHARACTERS) and about["agreement"]["kind"] == "typeset"
    assert about["agreement"]["same"] >= about["agreement"]["images"] - 1 > 10
    browser.evaluate("document.querySelector('details').open = true")
    assert "drawn, CC BY." in browser.text("#licence") and "MIT License" in (page / "LICENSES.txt").read_text()
