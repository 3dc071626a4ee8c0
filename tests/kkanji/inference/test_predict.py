import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.inference.predict import BATCH, Predictor, list_images, predict_files
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer
from shards import InputError

SAMPLE = Path(__file__).parents[3] / "sample" / "kkanji2"
MODEL = "kkanji_efficientnet_fused_s"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A model that has learnt nothing, saved and loaded."""
    torch.manual_seed(0)
    model = create_model(MODEL, 3)
    path = checkpoint.save(
        tmp_path_factory.mktemp("checkpoints"),
        1,
        model=model,
        optimizer=create_optimizer(model, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL}},
        classes=ClassMap.of(ord(character) for character in "一二三"),
        best=True,
    )
    return Predictor(path, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images at two depths, and two files that are none."""
    images = sorted((SAMPLE / "U+4E09").iterdir())[:3]
    for image, name in zip(images, ("b.png", "a.PNG", "inside/c.png"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inside" / "index.json").write_text("{}")
    return tmp_path


def test_folders_are_searched_and_files_taken_as_they_are(folder: Path) -> None:
    listing = list_images([folder, folder / "notes.txt", folder / "nowhere.png"])
    names = [str(file.relative_to(folder)) for file in listing.files]
    assert names == ["a.PNG", "b.png", "inside/c.png", "notes.txt", "nowhere.png"]
    assert listing.others == 2


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="1 file, none named as an image"):
        list_images([tmp_path])


def test_predictions_come_in_the_order_of_the_files_bad_ones_included(predictor: Predictor, folder: Path) -> None:
    files = [folder / "b.png", folder / "notes.txt", folder / "a.PNG", folder / "nowhere.png"]
    predictions = list(predict_files(predictor, files, top=2))
    assert [prediction.file for prediction in predictions] == files
    assert [len(prediction.guesses) for prediction in predictions] == [2, 0, 2, 0]
    assert "not a readable image" in str(predictions[1].error) and "no such file" in str(predictions[3].error)
    alone = [next(predict_files(predictor, [file], top=2)).guesses for file in (files[0], files[2])]
    for together, one in zip((predictions[0].guesses, predictions[2].guesses), alone, strict=True):
        assert [guess.label for guess in together] == [guess.label for guess in one]
        assert [guess.probability for guess in together] == pytest.approx([guess.probability for guess in one])


def test_more_files_than_a_batch(predictor: Predictor, tmp_path: Path) -> None:
    """Links to two images, alternating: each is predicted as itself, across the batches' borders."""
    images = sorted((SAMPLE / "U+4E09").iterdir())[:2]
    for number in range(BATCH + 3):
        os.symlink(images[number % 2], tmp_path / f"{number:04d}.png")
    predictions = list(predict_files(predictor, list_images([tmp_path]).files, top=1))
    assert len(predictions) == BATCH + 3
    probabilities = np.array([prediction.guesses[0].probability for prediction in predictions])
    for offset in range(2):
        assert probabilities[offset::2] == pytest.approx(probabilities[offset])
    assert probabilities[0] != pytest.approx(probabilities[1])


def test_all_files_bad_or_none(predictor: Predictor, tmp_path: Path) -> None:
    assert [prediction.guesses for prediction in predict_files(predictor, [tmp_path / "no.png"], top=1)] == [()]
    assert list(predict_files(predictor, [], top=1)) == []


def test_the_temperature_of_an_export_is_applied(predictor: Predictor) -> None:
    image = np.array(Image.open(sorted((SAMPLE / "U+4E09").iterdir())[0]))[None]
    plain = [guess.probability for guess in predictor.predict(image, 3)[0]]
    predictor.temperature = 0.5
    sharp = [guess.probability for guess in predictor.predict(image, 3)[0]]
    predictor.temperature = 1.0
    squares = np.square(plain)
    assert sharp == pytest.approx((squares / squares.sum()).tolist(), rel=1e-4)
    assert sum(plain) == pytest.approx(1)
