"""The mean of checkpoints' weights: exact, a checkpoint like others, and refused where it would mean nothing."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from kkanji import checkpoint
from kkanji.checkpoint.average import average
from kkanji.checkpoint.export import export
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap
from kkanji.config import Head
from kkanji.models import create_model
from shards import InputError

NETWORK = "kkanji_efficientnet_fused_s"


def save(folder: Path, seed: int, *, head: Head = "linear", points: Iterable[int] = (0x4E00, 0x4E8C, 0x4E09)) -> Path:
    torch.manual_seed(seed)
    classes = ClassMap.of(points)
    model = create_model(NETWORK, len(classes), head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {"config": {"model": NETWORK, "head": head, "seed": seed}, "progress": {"step": 1}}
    return checkpoint.save(folder, 1, model=model, optimizer=optimizer, state=state, classes=classes, best=True)


def test_every_weight_is_the_mean_and_counts_are_the_first_ones(tmp_path: Path) -> None:
    parts = [save(tmp_path / str(seed), seed) for seed in range(3)]
    average(parts, tmp_path / "mean")
    found = safetensors.torch.load_file(tmp_path / "mean" / checkpoint.MODEL)
    weights = [safetensors.torch.load_file(part / checkpoint.MODEL) for part in parts]
    assert found.keys() == weights[0].keys()
    for name, value in found.items():
        expected = (weights[0][name].double() + weights[1][name] + weights[2][name]) / 3
        assert value.dtype == weights[0][name].dtype
        torch.testing.assert_close(value.double(), expected if value.is_floating_point() else weights[0][name].double())


def test_it_is_a_checkpoint_that_says_what_it_is_made_of(tmp_path: Path) -> None:
    first, second = (save(tmp_path / str(seed), seed) for seed in range(2))
    average([first, second], tmp_path / "mean")
    checkpoint.check(tmp_path / "mean")
    state = checkpoint.read_state(tmp_path / "mean")
    assert state["config"]["seed"] == 0 and state["config"]["averaged"] == [str(second.resolve())]
    assert "progress" not in state and "optimizer" not in state
    assert load_trained(tmp_path / "mean")(torch.zeros(2, 1, 64, 64)).shape == (2, 3)


def test_a_mean_of_means_names_all_parts_and_has_no_temperature(tmp_path: Path) -> None:
    """Otherwise an evaluation on images of a forgotten part would be proven disjoint from training."""
    first, second, third = (save(tmp_path / str(seed), seed) for seed in range(3))
    average([first, second], tmp_path / "mean")
    average([tmp_path / "mean", third, second], tmp_path / "again")
    parts = checkpoint.read_state(tmp_path / "again")["config"]["averaged"]
    assert parts == [str(second.resolve()), str(third.resolve())]
    export(first, tmp_path / "exported", card="# a model\n", temperature=2.5)
    average([tmp_path / "exported", second], tmp_path / "calibrated")
    assert checkpoint.read_state(tmp_path / "exported")["temperature"] == 2.5
    assert "temperature" not in checkpoint.read_state(tmp_path / "calibrated")


def test_what_has_no_mean_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    first = save(tmp_path / "first", 0)
    cosine = save(tmp_path / "cosine", 0, head="cosine")
    hiragana = save(tmp_path / "hiragana", 0, points=(0x3042, 0x3044, 0x3046))
    for paths, message in (
        ([first], "--checkpoints: 1, expected two or more"),
        ([first, cosine], r"a cosine head; expected kkanji_efficientnet_fused_s with a linear head"),
        ([first, hiragana], "has other classes than"),
        ([first, tmp_path / "gone"], "no such checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            average(paths, tmp_path / "mean")
        assert not (tmp_path / "mean").exists()
    average([first, first], tmp_path / "mean")
    with pytest.raises(InputError, match="exists"):
        average([first, first], tmp_path / "mean")
