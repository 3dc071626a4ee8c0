"""The examples of docs/library.md do what they say, as they stand."""

import re
from pathlib import Path

import pytest

from tests.launch.commands import ROOT, start

EXAMPLES = ROOT / "examples"
MOST_LINES = 35


def run(name: str, *arguments: object) -> str:
    result = start(str(EXAMPLES / f"{name}.py"), *map(str, arguments))
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_short_and_in_the_document() -> None:
    document = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"../examples/{path.name}" in document
        assert len(path.read_text().splitlines()) <= MOST_LINES


def test_own_loop(tiny_set: Path) -> None:
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", run("own_loop", tiny_set, 3))]
    assert len(losses) == 3 and losses[-1] < losses[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loader(tiny_set: Path, workers: int) -> None:
    lines = run("torch_loader", tiny_set, workers).splitlines()
    assert len(lines) == 5 and lines[-1].startswith("step 5 of 5: 16 images")


def test_webdataset_pipeline(tiny_set: Path) -> None:
    assert run("webdataset_pipeline", tiny_set / "train-00000.tar") == f"108 images of {108 * 64 * 64} pixels\n"


def test_order_alone() -> None:
    first, second = run("order_alone").splitlines()
    assert "rank 0: 25000 samples" in first and "rank 1: 25000 samples" in second and first[-20:] != second[-20:]


def test_cache_alone(tiny_set: Path) -> None:
    lines = run("cache_alone", tiny_set / "train-00000.tar").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["0 hits, 1 misses", "1 hits, 1 misses"]


def test_write_a_set(tmp_path: Path) -> None:
    assert run("write_a_set", tmp_path / "set") == "{'train': 300, 'val': 60}\n"
    assert len(run("torch_loader", tmp_path / "set").splitlines()) == 12
