"""A page of a small network, and a browser to open it in."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kkanji import checkpoint
from kkanji.checkpoint.export import export
from kkanji.classes import ClassMap
from kkanji.models import create_model
from kkanji.page.build import write_page
from kkanji.training.optimizers import create_optimizer
from tests.kkanji.page.browser import Browser, find

MODEL = "kkanji_efficientnet_fused_s"
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
    """An exported network that has learnt nothing, but whose logits are far enough apart to be told apart."""
    torch.manual_seed(0)
    network = create_model(MODEL, len(CHARACTERS), "linear")
    with torch.no_grad():
        network.get_submodule("classifier").weight.mul_(20)  # type: ignore[operator]
    folder = tmp_path_factory.mktemp("model")
    trained = checkpoint.save(
        folder,
        1,
        model=network,
        optimizer=create_optimizer(network, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL, "head": "linear"}, "progress": {"step": 1}},
        classes=ClassMap.of(map(ord, CHARACTERS)),
        best=True,
    )
    export(trained, folder / "exported", card=CARD)
    return folder / "exported"


@pytest.fixture(scope="session")
def page(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that network."""
    needed(shutil.which("npm"), "npm")
    pytest.importorskip("onnxscript")
    output = tmp_path_factory.mktemp("page") / "page"
    write_page(model, output, card=CARD, temperature=1.0)
    return output


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests."""
    command = find()
    needed(command, "Chromium")
    with Browser(str(command), tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Browser:
    """The page just opened from the disk, in English, its model ready."""
    chromium.requests.clear()
    chromium.problems.clear()
    chromium.size(1000, 800)
    chromium.open((page / "index.html").as_uri())
    chromium.wait("document.getElementById('status').innerText === TEXTS.en.ready")
    return chromium
