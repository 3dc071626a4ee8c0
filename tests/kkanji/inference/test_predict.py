import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.inference.listing import list_images
from kkanji.inference.predict import BATCH, Predictor, predict_files
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer
from shards import InputError

SAMPLE = Path(__file__).parents[3] / "sample" / "kkanji2"
MODEL = "kkanji_efficientnet_fused_s"


def saved(folder: Path, characters: str) -> Path:
    """A checkpoint of a model that has learnt nothing."""
    torch.manual_seed(0)
    model = create_model(MODEL, len(characters))
    return checkpoint.save(
        folder,
        1,
        model=model,
        optimizer=create_optimizer(model, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL}},
        classes=ClassMap(tuple(map(ord, characters))),
        best=True,
    )


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(saved(tmp_path_factory.mktemp("checkpoints"), "一二三"), torch.device("cpu"))


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


def test_whatever_cannot_be_read_in_a_folder_is_named_or_counted(
    predictor: Predictor, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    good = folder / "b.png"
    shutil.copy(good, elsewhere / "e.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "broken.png").symlink_to(elsewhere / "gone.png")
    (folder / "file.png").symlink_to(elsewhere / "e.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.jpg").write_bytes(good.read_bytes()[:100])
    (folder / "huge.png").write_bytes(good.read_bytes()[:16] + b"\xff" * 8 + good.read_bytes()[24:])
    for name in ("a.jp2", "b.AVIF", "c.heic", "d.svg", "e.eps"):
        (folder / name).write_bytes(b"no picture")
    (folder / "closed").mkdir()
    listed = os.scandir
    # The superuser may read any folder, so a refusal has to be made.
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) if str(path).endswith("closed") else listed(path))
    listing = list_images([folder])
    told = {
        prediction.file.name: prediction.error
        for prediction in predict_files(predictor, listing.files, top=1)
        if prediction.error
    }
    assert set(told) == {
        *("linked", "broken.png", "device.png", "pipe.png", "empty.png", "half.jpg", "huge.png", "closed"),
        *("a.jp2", "b.AVIF", "c.heic", "d.svg", "e.eps"),
    }
    for name, message in (
        ("linked", "a link to a folder, which is not followed; give the folder itself"),
        ("broken.png", "a link to nothing"),
        ("pipe.png", "a pipe or a device"),
        ("device.png", "a pipe or a device"),
        ("closed", "a folder that may not be read"),
    ):
        assert message in str(told[name]) and str(folder / name) in str(told[name])
    assert len(listing.files) == len(told) + 4 and listing.others == 2
    followed = list_images([folder / "linked"])  # as its message says
    assert [file.name for file in followed.files] == ["e.png"]


def refuse(path: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_one_bad_file_in_a_hundred_leaves_the_rest(predictor: Predictor, tmp_path: Path) -> None:
    image = sorted((SAMPLE / "U+4E09").iterdir())[0]
    bad = {number * 100 + 37 for number in range(3)}
    for number in range(300):
        path = tmp_path / f"{number:04d}.png"
        if number in bad:
            path.write_bytes(b"" if number % 200 < 100 else b"x" * 99)
        else:
            path.symlink_to(image)
    predictions = list(predict_files(predictor, list_images([tmp_path]).files, top=1))
    assert {number for number, prediction in enumerate(predictions) if prediction.error} == bad
    assert len({prediction.guesses[0].label for prediction in predictions if prediction.guesses}) == 1


def test_forms_of_one_character_are_shown_with_the_sum_of_their_probabilities(tmp_path: Path) -> None:
    predictor = Predictor(saved(tmp_path, "來一来國"), torch.device("cpu"))
    image = np.array(Image.open(sorted((SAMPLE / "U+4E09").iterdir())[0]))[None]
    guesses = {guess.character: guess for guess in predictor.predict(image, 4)[0]}
    both = guesses["来"].probability + guesses["來"].probability
    for form in "来來":
        assert guesses[form].forms == "來来" and guesses[form].forms_probability == pytest.approx(both)
    for alone in "一國":  # its other form, 国, is no class
        assert guesses[alone].forms == "" and guesses[alone].forms_probability is None
