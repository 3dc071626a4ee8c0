import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.train.random_set import random_set
from benchmarks.train.train import train
from benchmarks.train.trial import ALONE, CACHED, FED, LOADER
from kkanji.data.dali import Batch, Loader
from kkanji.data.training_set import class_map, open_set
from shards import InputError, verify
from tests.launch.commands import start_ranks

MODEL = "kkanji_efficientnet_fused_s"


@contextmanager
def one_thread() -> Iterator[None]:
    """Of torch: a second one would wait, and wait, where others use the cores. Training warns of idle cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch uses 1 thread")
        try:
            yield
        finally:
            torch.set_num_threads(before)


def run(data: Path, output: Path, *, repeats: int) -> dict[str, Any]:
    """A few steps of 8 images in micro-batches of 4 of each kind."""
    with one_thread():
        train(
            data=str(data),
            model=MODEL,
            batch_size=8,
            micro_batch=4,
            repeats=repeats,
            seconds=0.05,
            output=output,
        )
    result: dict[str, Any] = json.loads(output.read_text())
    return result


@pytest.fixture(scope="module")
def result(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tiny_set, tmp_path_factory.mktemp("results") / "train.json", repeats=2)


def test_four_rates_and_their_steps_are_recorded(result: dict[str, Any]) -> None:
    assert [row["name"] for row in result["rows"]] == [ALONE, CACHED, FED, LOADER]
    for row in result["rows"]:
        assert 0 < row["lowest"] <= row["median"] <= row["highest"] and row["n"] == 2
    rates = {row["name"]: row["median"] for row in result["rows"]}
    assert result["rates"]["fed"] == rates[FED] and result["rates"]["alone"] == rates[ALONE]
    for row in result["steps"]:
        assert row["steps"] >= 2 and 0 < row["median ms"] <= row["p90 ms"] <= row["p99 ms"]
        assert 0 < row["of peak"]
        assert row["images/s a device"] == rates[row["name"]]  # one process
    assert result["steps"][2]["MB/s to a device"] == pytest.approx(rates[FED] * 4104 / 1e6)
    assert [row["waited"] for row in result["steps"][:2]] == [0, 0]
    assert result["verdict"] and result["environment"]["cores"] and result["devices"][0]["processes"] == 1


def test_a_slow_loader_is_found_out(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring = Loader.__iter__

    def bring_late(self: Loader) -> Iterator[Batch]:
        for batch in bring(self):
            time.sleep(0.5)
            self.wait_s += 0.5
            yield batch

    monkeypatch.setattr(Loader, "__iter__", bring_late)
    found = run(tiny_set, tmp_path / "train.json", repeats=1)
    assert found["verdict"].startswith("The loader limits: ")
    assert found["rates"]["loader"] <= 4 / 0.5
    assert found["steps"][2]["median ms"] >= 2 * 500  # two micro-batches a step


def test_two_processes_on_random_pixels(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("kkanji-benchmark-train-*"))
    options = ("--model", MODEL, "--batch-size", "8", "--images", "250", "--classes", "10", "--repeats", "1")
    output = tmp_path / "train.json"
    command = ("-m", "benchmarks.train.train", *options, "--seconds", "0.1", "--output", str(output))
    ended = start_ranks(*command)
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr
    found = json.loads(output.read_text())
    assert found["devices"][0]["processes"] == 2
    whole = {row["name"]: row["median"] for row in found["rows"]}
    for row in found["steps"]:
        assert row["images/s a device"] == pytest.approx(whole[row["name"]] / 2)
    assert [rank.stdout.count(found["verdict"]) for rank in ended] == [1, 0]
    assert set(Path(tempfile.gettempdir()).glob("kkanji-benchmark-train-*")) <= before


def test_random_pixels_are_a_good_set(tmp_path: Path) -> None:
    random_set(tmp_path / "set", 500, 7)
    assert not verify(tmp_path / "set").problems
    opened = open_set(tmp_path / "set")
    assert len(class_map(opened)) == 7
    assert opened.manifest.splits["train"].samples_per_class == (72, 72, 72, 71, 71, 71, 71)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 251}, "--images 251: expected a multiple of 250"),
        ({"images": 0}, "--images 0: expected a multiple of 250"),
        ({"repeats": 0}, "--repeats 0, .*: expected more than 0"),
        ({"seconds": -1}, "--seconds -1, .*: expected more than 0"),
        ({"classes": 30_000}, "--classes 30000: .*at most 20,000 classes"),
        ({"data": "no/such/set"}, "no/such/set"),
        ({"model": "no_such_model", "images": 250, "classes": 2}, "no_such_model"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with one_thread(), pytest.raises(InputError, match=message):
        train(**options, output=tmp_path / "train.json")
    assert not list(tmp_path.iterdir())
