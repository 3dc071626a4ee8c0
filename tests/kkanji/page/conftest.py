"""A page of a small network, and a browser to open it in."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kkanji.page.build import write_page
from tests.kkanji.neighbours.indexed_model import exported_model, with_index
from tests.kkanji.page.browser import Browser, find

CHARACTERS = "一二三十人大木本日國国来來"
CARD = "# fused_s: 13 characters of a set\n\n- Trained on 1 image.\n- Data: drawn, `CC BY`\n"


def needed(there: object, what: str) -> None:
    """Skip without it, but fail where it is promised: a skip can never pass for a pass."""
    if there:
        return
    if os.environ.get("KKANJI_REQUIRE_BROWSER") == "1":
        pytest.fail(f"KKANJI_REQUIRE_BROWSER=1, and there is no {what}")
    pytest.skip(f"no {what}")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network that has learnt nothing."""
    return exported_model(tmp_path_factory.mktemp("model"), CHARACTERS, CARD)


@pytest.fixture(scope="session")
def indexed(model: Path) -> Path:
    """The same with an index of neighbours, and a score of what is no character."""
    return with_index(model, model.parent / "indexed")


def require_page_tools() -> None:
    """Skip without what makes and opens pages."""
    needed(find(), "Chromium")
    needed(shutil.which("npm"), "npm")
    pytest.importorskip("onnxscript")


def made_page(model: Path, output: Path) -> Path:
    require_page_tools()
    write_page(model, output, card=CARD, temperature=1.0)
    return output


@pytest.fixture(scope="session")
def page(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that network."""
    return made_page(model, tmp_path_factory.mktemp("page") / "page")


@pytest.fixture(scope="session")
def indexed_page(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the network with the index."""
    return made_page(indexed, tmp_path_factory.mktemp("page") / "page")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests."""
    command = find()
    needed(command, "Chromium")
    with Browser(str(command), tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(chromium: Browser, page: Path) -> Browser:
    """A page just opened from the disk, in English, its model ready."""
    chromium.requests.clear()
    chromium.problems.clear()
    chromium.size(1000, 800)
    chromium.open((page / "index.html").as_uri())
    chromium.wait("document.getElementById('status').innerText === TEXTS.en.ready")
    return chromium


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Browser:
    """The page of the network alone."""
    return opened(chromium, page)


@pytest.fixture
def judging(chromium: Browser, indexed_page: Path) -> Browser:
    """The page of the network with the index."""
    return opened(chromium, indexed_page)
