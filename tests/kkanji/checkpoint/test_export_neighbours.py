"""An ONNX file of a model with an index: neighbours vote in it, and it says what shows none of the characters."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kkanji import checkpoint
from kkanji.checkpoint.export import export
from kkanji.checkpoint.load import load_trained
from kkanji.checkpoint.onnx_file import ONNX, classifier_of, compare, session_of, trial_images
from kkanji.inference.predict import Predictor
from kkanji.neighbours.in_graph import NeighbourClassifier, ink_in_graph
from kkanji.neighbours.made import KINDS, make
from kkanji.neighbours.unknown import REASONS, ink_of
from shards import InputError
from tests.kkanji.neighbours.indexed_model import exported_model, with_index

CHARACTERS = "一二三人入大犬太土士國国"
CARD = "# fused_s: 12 characters of a set\n\n- Trained on 1 image.\n- Data: drawn, `CC BY`\n"
ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "read_with_onnxruntime.py"
FILES = sorted((ROOT / "sample" / "kkanji2").glob("*/*.png"))[::40]
SAMPLE = np.stack([np.asarray(Image.open(path)) for path in FILES])
MADE = np.concatenate([make(SAMPLE, kind, 3, seed=1) for kind in KINDS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with an index and an ONNX file."""
    pytest.importorskip("onnxscript")
    made = tmp_path_factory.mktemp("models")
    indexed = with_index(exported_model(made, CHARACTERS, CARD), made / "indexed")
    export(indexed, made / "model", card=CARD, temperature=0.5, onnx=True)
    return made / "model"


def test_the_sample_is_read_as_predict_reads_it(folder: Path) -> None:
    reader, session = Predictor(folder, torch.device("cpu")), session_of((folder / ONNX).read_bytes())
    expected = reader.judged(SAMPLE, len(CHARACTERS))
    probabilities, unknown, reasons = session.run(None, {"images": SAMPLE[:, None]})
    assert unknown == pytest.approx(np.array([judged.unknown for judged in expected]), abs=1e-4)
    assert reasons.sum(axis=1) == pytest.approx(unknown, abs=1e-5)
    for found, judged in zip(probabilities, expected, strict=True):
        values = {guess.character: guess.probability for guess in judged.guesses}
        assert found == pytest.approx([values[each] for each in reader.classes.characters], abs=1e-4)
        assert reader.classes.characters[found.argmax()] == judged.guesses[0].character


def test_neighbours_have_their_vote_in_it(folder: Path) -> None:
    """What is in the index is read rightly, by a network that has learnt nothing."""
    images = trial_images(checkpoint.read_classes(folder).characters)
    probabilities, *_ = session_of((folder / ONNX).read_bytes()).run(None, {"images": images})
    alone, *_ = session_of(_without_index(folder)).run(None, {"images": images})
    truth = np.arange(len(images))
    assert (probabilities[truth, truth] > 0.3).all() and (alone.argmax(axis=1) != truth).any()
    assert np.abs(probabilities - alone).max() > 0.2


def _without_index(folder: Path) -> bytes:
    """The ONNX file of the same network without neighbours."""
    bare = folder.parent / "bare"
    if not bare.exists():
        export(folder.parent / "exported", bare, card=CARD, temperature=0.5, onnx=True)
    return (bare / ONNX).read_bytes()


def test_without_an_index_there_are_probabilities_alone(folder: Path) -> None:
    session = session_of(_without_index(folder))
    about = session.get_modelmeta().custom_metadata_map
    assert [each.name for each in session.get_outputs()] == ["probabilities"]
    assert "neighbours" not in about and "unknown" not in about["outputs"]


def test_what_is_no_character_is_marked_as_predict_marks_it(folder: Path) -> None:
    reader, classifier = Predictor(folder, torch.device("cpu")), classifier_of(folder, load_trained(folder), 0.5)
    with torch.inference_mode():
        _, unknown, reasons = classifier(torch.from_numpy(MADE)[:, None])
    judged = reader.judged(MADE, 1)
    assert unknown.numpy() == pytest.approx(np.array([each.unknown for each in judged]), abs=1e-4)
    doubted = [each.doubt for each in judged]
    assert len({*doubted} - {None}) == len(REASONS)
    for number, doubt in enumerate(doubted):
        assert doubt is None or REASONS[reasons[number].argmax()] == doubt


def test_the_file_says_what_is_inside(folder: Path) -> None:
    session = session_of((folder / ONNX).read_bytes())
    about = session.get_modelmeta().custom_metadata_map
    assert about["neighbours"].startswith("48 training images, of which the 5 nearest vote at temperature 0.03")
    assert tuple(json.loads(about["unknown_reasons"])) == REASONS and "unknown_threshold on" in about["outputs"]
    threshold = checkpoint.read_state(folder)["unknown"]["threshold"]
    assert float(about["unknown_threshold"]) == threshold
    assert [each.name for each in session.get_outputs()] == ["probabilities", "unknown", "reasons"]


def test_the_example_says_what_is_none_of_the_characters(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(MADE[0]).save(tmp_path / "noise.png")
    command = [sys.executable, str(EXAMPLE), str(folder / ONNX), str(FILES[0]), str(tmp_path / "noise.png")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = lines[-1].removeprefix(f"{tmp_path / 'noise.png'} probably none of these: ")
    assert found in REASONS


def test_another_mix_is_refused(folder: Path) -> None:
    """It stands for an exporter's mistake."""
    right = classifier_of(folder, load_trained(folder), 0.5)
    assert isinstance(right, NeighbourClassifier)
    right.mix = dataclasses.replace(right.mix, weight=0.9)
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime's probabilities differ from torch's by 0\.\d+"):
        compare(right, (folder / ONNX).read_bytes(), trial_images(checkpoint.read_classes(folder).characters))


def test_a_damaged_index_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "neighbours.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"neighbours\.safetensors"):
        export(tmp_path / "model", tmp_path / "again", card=CARD, onnx=True)


def spiral() -> NDArray[np.uint8]:
    """A line of one pixel, with one between its turns: the longest way there is between two pixels of a part."""
    image = np.zeros((64, 64), np.uint8)
    y, x = 0, -1
    for turn, length in enumerate([64, 63, 63, *np.repeat(np.arange(61, 0, -2), 2)]):
        down, right = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        steps = np.arange(1, length + 1)
        image[y + down * steps, x + right * steps] = 255
        y, x = y + down * length, x + right * length
    return image


def test_ink_is_described_as_for_predict_however_its_parts_wind() -> None:
    noise = [(np.random.default_rng(0).random((20, 64, 64)) < part) * np.uint8(255) for part in (0.2, 0.3, 0.4, 0.5)]
    images = np.concatenate([SAMPLE, MADE, *noise, [np.rot90(spiral(), turns) for turns in range(4)]]).astype(np.uint8)
    found = ink_in_graph(torch.from_numpy(images)[:, None].float()).numpy()
    assert found == pytest.approx(np.stack([ink_of(image) for image in images]), abs=1e-5)
