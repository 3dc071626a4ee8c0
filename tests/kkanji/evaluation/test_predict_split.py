"""Every image of a split once, whatever the number of ranks."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kkanji.classes import ClassMap
from kkanji.data.training_set import class_map, open_set
from kkanji.evaluation.predict_split import BATCHES, batch_size, predict_split, shifts, unaugmented_feed
from kkanji.evaluation.predictions import KINDS, Predictions, load_predictions
from kkanji.pixels import normalise
from tests.kkanji.evaluation.evaluate_ranks import BATCH, make_model
from tests.launch.commands import start_ranks
from tests.making import make_set

SAMPLE = sorted((Path(__file__).parents[3] / "sample" / "kkanji2").iterdir())


def few_images(folder: Path, *, validated: int, classes: int) -> Path:
    """A set with so many images to validate, one a class; the other classes have an image to train on only."""
    for number, source in enumerate(SAMPLE[:classes]):
        (folder / "kkanji2" / source.name).mkdir(parents=True)
        for image in sorted(source.iterdir())[: 4 if number < validated else 1]:
            shutil.copy(image, folder / "kkanji2" / source.name)
    return make_set(folder, "few")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two ranks get four and five images, so one batch and two; or one rank gets none at all."""
    folder = tmp_path_factory.mktemp("sets")
    return [
        few_images(folder / "nine", validated=9, classes=9),
        few_images(folder / "one", validated=1, classes=3),
    ]


def predict_alone(folder: Path, model: nn.Module, views: int = 1) -> Predictions:
    data = open_set(folder)
    return predict_split(Accelerator(), model, unaugmented_feed(data.split("val"), data.manifest.classes), views=views)


def test_two_ranks_find_what_one_does(sets: list[Path], tmp_path: Path) -> None:
    """Ranks with another number of batches, or none."""
    script = str(Path(__file__).with_name("evaluate_ranks.py"))
    results = start_ranks(script, str(tmp_path), *map(str, sets))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    for folder, images in zip(sets, (9, 1), strict=True):
        name, classes = folder.parent.name, open_set(folder).manifest.classes
        model = make_model(classes)
        expected = predict_alone(folder, model, views=5)
        first, second = (load_predictions(tmp_path / f"{name}-{rank}.npz") for rank in range(2))
        assert first.position.tolist() == list(range(images))
        for column in KINDS:
            assert torch.equal(getattr(first, column), getattr(second, column))
            assert torch.allclose(getattr(first, column), getattr(expected, column), rtol=1e-3)
        fits = [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2)]
        assert fits[0] == fits[1] and fits[0]["images"] == images


def test_classes_are_matched_by_character_and_unknown_ones_are_never_predicted(sets: list[Path]) -> None:
    """A model of seven of the set's nine classes, numbered from the end; the two that it lacks come after its own."""
    data = open_set(sets[0])
    own = class_map(data)
    known = ClassMap(own.code_points[:1:-1])
    every = known.with_others(own)
    assert every.code_points == own.code_points[:1:-1] + own.code_points[:2]
    numbers = np.array([every.ids[code_point] for code_point in own.code_points])
    feed = unaugmented_feed(data.split("val"), len(every), numbers)
    found = predict_split(Accelerator(), make_model(len(known)), feed)
    stored = data.split("val").labels()
    assert found.label.tolist() == numbers[stored].tolist()
    assert set(found.label.tolist()) == set(range(9))
    top = found.predicted[:, 0]
    assert int(top.max()) < 7
    assert found.label_probability[found.label >= 7].tolist() == [0.0, 0.0]


def test_the_batch_does_not_matter(sets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(9)
    whole = predict_alone(sets[0], model)
    monkeypatch.setitem(BATCHES, "cpu", BATCH)
    parts = predict_alone(sets[0], model)
    assert whole.predicted.tolist() == parts.predicted.tolist()
    assert torch.allclose(whole.label_probability, parts.label_probability, rtol=1e-4)


class Small(nn.Module):
    """A network on a device that has memory for so many images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.tried: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.tried.append(len(images))
        if len(images) > self.most:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return images.flatten(1)[:, :5]


def test_a_gpu_evaluates_as_many_images_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most as there are. The device is one whose tensors have no contents."""
    monkeypatch.setitem(BATCHES, "meta", 4096)
    gpu = cast(Accelerator, SimpleNamespace(device=torch.device("meta"), autocast=nullcontext))
    for most, images, tried in ((9999, 50_000, [4096]), (1500, 50_000, [4096, 2048, 1024]), (9999, 700, [700])):
        model = Small(most)
        assert batch_size(gpu, model, images) == tried[-1] == model.tried[-1]
        assert model.tried == tried
    assert batch_size(gpu, Small(9999), 0) == 1


class InkAt(nn.Module):
    """Reads class 1 as sure as there is ink at one pixel, else class 0; never any of the other classes."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.place = row, column

    def forward(self, images: Tensor) -> Tensor:
        ink = images[:, 0, self.place[0], self.place[1]]
        return torch.stack([torch.zeros_like(ink), ink, *[torch.full_like(ink, -99)] * 4], dim=1)


def test_views_are_shifts_of_the_image_with_black_coming_in(tiny_set: Path) -> None:
    data = open_set(tiny_set)
    images = data.split("val").collect(np.arange(data.split("val").samples)).images
    found = predict_alone(tiny_set, InkAt(0, 63), views=5)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    views = np.stack([padded[:, 2 - down, 65 - right] for down, right in shifts(5)])
    ink = normalise(torch.from_numpy(views)).double()
    expected = torch.sigmoid(ink).mean(dim=0)
    assert (found.predicted[:, 0] == (expected > 0.5).int()).all()
    assert torch.allclose(found.probability[:, 0].double(), torch.maximum(expected, 1 - expected), rtol=1e-5)


@pytest.mark.parametrize("views", [1, 5, 9, 13, 21, 25])
def test_views_lie_evenly_about_the_image(views: int) -> None:
    chosen = shifts(views)
    assert chosen[0] == (0, 0) and len(set(chosen)) == views
    assert {(-down, -right) for down, right in chosen} == {(right, down) for down, right in chosen} == set(chosen)
