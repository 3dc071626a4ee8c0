"""The page of the model that the package has, made by the command, opened from the disk, reads as `kkanji predict`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kkanji.inference.predict import Prediction, Predictor, predict_files
from kkanji.neighbours.made import make
from kkanji.pretrained import KUZUSHIJI_KANJI
from launch.export import ExportConfig, export
from tests.kkanji.page.browser import Browser
from tests.kkanji.page.conftest import opened, require_page_tools
from tests.kkanji.page.test_judging import SAMPLE, TEXTS
from tests.kkanji.page.test_page import read

ALIKE = 0.05  # between probabilities: the page has weights of 8 and 6 bits; 0.03 was seen on 15 images


@pytest.fixture(scope="module")
def shipped_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that `kkanji export --page` makes of it."""
    require_page_tools()
    page = tmp_path_factory.mktemp("shipped") / "page"
    export(ExportConfig(checkpoint=KUZUSHIJI_KANJI, page=page))
    return page


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(KUZUSHIJI_KANJI, torch.device("cpu"))


@pytest.fixture
def shipped(chromium: Browser, shipped_page: Path) -> Browser:
    return opened(chromium, shipped_page)


def on_paper(folder: Path) -> Path:
    """A character of the sample in dark ink on brown paper, with a margin."""
    ink = np.pad(np.asarray(Image.open(SAMPLE[0]).resize((180, 180))) / 255.0, 40)[..., None]
    paper, dark = np.array((200, 175, 130)), np.array((45, 36, 32))
    Image.fromarray((paper + (dark - paper) * ink).astype(np.uint8)).save(folder / "paper.png")
    return folder / "paper.png"


def made(folder: Path, kind: str) -> Path:
    """What shows none of the model's characters."""
    characters = np.stack([np.asarray(Image.open(path)) for path in SAMPLE[::300]])
    Image.fromarray(make(characters, kind, 1, seed=4)[0]).save(folder / f"{kind}.png")
    return folder / f"{kind}.png"


def reads_as_predict(browser: Browser, expected: Prediction) -> None:
    browser.evaluate("clear()")
    browser.drop("#board", expected.file)
    found = read(browser)
    probabilities = [value for _, value in found]
    assert len(found) == 5 and probabilities == sorted(probabilities, reverse=True)
    for guess in expected.guesses:
        assert dict(found).get(guess.character, 0.0) == pytest.approx(guess.probability, abs=ALIKE), guess.character
    assert browser.evaluate("state.found.score") == pytest.approx(expected.unknown, abs=ALIKE)
    assert browser.evaluate("!at('doubt').hidden") == (expected.doubt is not None)


def test_characters_are_read_as_by_predict(shipped: Browser, predictor: Predictor, tmp_path: Path) -> None:
    files = [SAMPLE[0], *SAMPLE[600::600], on_paper(tmp_path)]
    predictions = list(predict_files(predictor, files, top=5))
    for each in predictions:
        reads_as_predict(shipped, each)
    first, last = predictions[0], predictions[-1]
    assert first.guesses[0].character == last.guesses[0].character == chr(int(SAMPLE[0].parent.name[2:], 16))
    assert shipped.text("#readings li:first-child .glyph") == last.guesses[0].character
    assert "3,832 characters and no kana" in shipped.text("#known") and shipped.problems == []


@pytest.mark.parametrize("kind", ["noise", "a page"])
def test_what_is_no_character_is_marked_as_by_predict(
    shipped: Browser, predictor: Predictor, tmp_path: Path, kind: str
) -> None:
    (prediction,) = predict_files(predictor, [made(tmp_path, kind)], top=5)
    reads_as_predict(shipped, prediction)
    assert prediction.doubt and TEXTS[prediction.doubt] in shipped.text("#doubt")
