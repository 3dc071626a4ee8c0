"""A place for each test: a new folder, small data, and a trained run where one is needed."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.launch.commands import start
from tests.remedies.stock import WORDS, Stock, draw
from tools.commands.combine import combine
from tools.commands.pack import pack
from tools.commands.split import split


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    for word in WORDS:
        draw(folder / "raw", word, 16)
    combine((folder / "raw",), output=folder / "originals")
    split(folder / "originals", val=0.25)
    pack(folder / "originals", output=folder / "shards", block_size=125)
    # Training on a set without validation images takes a second less.
    combine((folder / "raw",), output=folder / "originals-for-training")
    split(folder / "originals-for-training", val=0.0)
    pack(folder / "originals-for-training", output=folder / "lessons", block_size=125)
    return folder


@pytest.fixture(scope="session")
def stock_run(made: Path) -> Callable[[], Path]:
    """Trained for two epochs of three steps, and evaluated."""

    @cache
    def run() -> Path:
        options = ("--model", "test_resnet", "--epochs", "2", "--batch-size", "12", "--log-every", "1")
        result = start("-m", "launch", "train", "--data", str(made / "shards"), "--output", str(made / "run"), *options)
        assert result.returncode == 0, result.stderr
        checkpoint = str(made / "run/checkpoints/best")
        result = start("-m", "launch", "evaluate", "--checkpoint", checkpoint, "--data", str(made / "shards"))
        assert result.returncode == 0, result.stderr
        return made / "run"

    return run


@pytest.fixture
def place(made: Path, stock_run: Callable[[], Path], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stock]:
    variables = {"KKANJI_CACHE": str(tmp_path / "cache")}
    stock = Stock(tmp_path, made, stock_run, lambda: str(request.getfixturevalue("bucket")), variables)
    with stock.ending:
        yield stock
