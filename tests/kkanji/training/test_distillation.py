"""What a run is taught by other networks."""

from pathlib import Path

import pytest
import torch

from kkanji import checkpoint
from kkanji.checkpoint.load import load_trained
from kkanji.classes import sorted_class_map
from kkanji.models import create_model
from kkanji.training.distillation import Teachers
from shards import InputError

NETWORK = "kkanji_efficientnet_fused_s"
OWN = sorted_class_map([0x4E00, 0x4E8C, 0x4E09])
CPU = torch.device("cpu")
ALL = torch.ones(3, dtype=torch.int64)


def save(folder: Path, points: list[int], seed: int) -> Path:
    torch.manual_seed(seed)
    classes = sorted_class_map(points)
    model = create_model(NETWORK, len(classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {"config": {"model": NETWORK, "head": "linear"}}
    return checkpoint.save(folder, 1, model=model, optimizer=optimizer, state=state, classes=classes, best=True)


def test_the_mean_of_what_they_make_of_the_runs_characters(tmp_path: Path) -> None:
    """Whatever their own numbers for them, and whatever else they know."""
    paths = [save(tmp_path / "a", list(OWN.code_points), 0), save(tmp_path / "b", [0x3042, *OWN.code_points], 1)]
    images = torch.randn(5, 1, 64, 64)
    found = Teachers(paths, OWN, ALL, CPU).probabilities(images)
    with torch.inference_mode():
        first, second = (load_trained(path).eval()(images) for path in paths)
    expected = (first.softmax(1) + second[:, 1:].softmax(1)) / 2
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(5))
    assert not found.requires_grad


def test_a_character_without_images_need_not_be_known(tmp_path: Path) -> None:
    path = save(tmp_path, [0x4E00, 0x4E8C], 0)
    unknown = OWN.ids[0x4E09]
    counts = ALL.clone()
    counts[unknown] = 0
    found = Teachers([path], OWN, counts, CPU).probabilities(torch.randn(2, 1, 64, 64))
    assert torch.equal(found[:, unknown], torch.zeros(2))
    with pytest.raises(InputError, match=r"--teachers .*: does not know 1 of the set's characters: U\+4E09"):
        Teachers([path], OWN, ALL, CPU)
