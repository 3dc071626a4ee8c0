"""What others get: a folder that is a checkpoint, a timm model and, where wanted, an ONNX file that reads alike."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import kkanji.models
from kkanji import checkpoint
from kkanji.checkpoint import export as exporting
from kkanji.checkpoint.export import card_facts, export, read_card
from kkanji.checkpoint.onnx_file import ONNX, ImageClassifier, compare, trial_images
from kkanji.classes import ClassMap
from kkanji.glyphs import render_glyph
from kkanji.inference.predict import Predictor, predict_files
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer
from shards import InputError

assert kkanji.models  # registers the networks
MODEL = "kkanji_efficientnet_fused_s"
CHARACTERS = "一二三人入大犬太土士國国"
EXAMPLE = Path(__file__).parents[3] / "examples" / "read_with_onnxruntime.py"
CARD = "# fused_s: 12 characters of a set\n\n- Trained on 1 image.\n- Data: \\[drawn\\], `CC BY`\n"


@pytest.fixture(scope="module", params=["linear", "cosine"])
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A checkpoint of a network that has learnt nothing, but whose logits are far enough apart to be told apart."""
    torch.manual_seed(0)
    model = create_model(MODEL, len(CHARACTERS), request.param)
    if request.param == "linear":
        with torch.no_grad():
            model.get_submodule("classifier").weight.mul_(20)  # type: ignore[operator]
    return checkpoint.save(
        tmp_path_factory.mktemp("checkpoints"),
        1,
        model=model,
        optimizer=create_optimizer(model, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL, "head": request.param}, "progress": {"step": 1}},
        classes=ClassMap.of(map(ord, CHARACTERS)),
        best=True,
    )


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    output = tmp_path_factory.mktemp("exports") / "model"
    export(trained, output, card=CARD, temperature=0.5, onnx=True)
    return output


def printed(path: Path, index: int, *, side: int, paper: int, ink: int) -> Path:
    """A typeset character of the model as a picture of `side` pixels, in these gray levels."""
    share = render_glyph(CHARACTERS[index], side) / 255
    Image.fromarray((paper + (ink - paper) * share).astype(np.uint8)).save(path)
    return path


def test_the_folder_is_whole_and_lean(folder: Path, trained: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".kkanji-output", "README.md", "config.json", "index.json", "manifest.json", "model.onnx", "model.safetensors",
        "state.json",
    }  # fmt: skip
    checkpoint.check(folder)
    assert set(json.loads((folder / "manifest.json").read_text())) == names - {"manifest.json", ".kkanji-output"}
    assert "progress" not in checkpoint.read_state(folder) and "optimizer" not in checkpoint.read_state(folder)
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, trained)]
    assert sizes[0] < 0.55 * sizes[1]


def test_predict_and_onnxruntime_agree(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    images, reader = trial_images(tuple(CHARACTERS)), Predictor(folder, torch.device("cpu"))
    session = onnxruntime.InferenceSession((folder / ONNX).read_bytes(), providers=["CPUExecutionProvider"])
    for batch in (images, images[:3]):
        (found,) = session.run(None, {"images": batch})
        best = [guesses[0] for guesses in reader.predict(batch[:, 0], 1)]
        assert [reader.classes.ids[ord(guess.character)] for guess in best] == found.argmax(axis=1).tolist()
        assert [guess.probability for guess in best] == pytest.approx(found.max(axis=1).tolist(), abs=1e-4)


def test_the_file_says_what_it_is(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession((folder / ONNX).read_bytes(), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    classes = ClassMap.of(map(ord, CHARACTERS))
    assert tuple(json.loads(about["labels"])) == classes.labels and about["characters"] == "".join(classes.characters)
    assert json.loads(about["families"]) == ["国國"] and float(about["temperature"]) == 0.5
    assert (about["title"], about["licence"]) == ("fused_s: 12 characters of a set", "[drawn], `CC BY`")
    assert "EXIF" in about["preparation"] and str(Path.cwd()).encode() not in (folder / ONNX).read_bytes()


def test_a_folder_without_a_card_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README\.md: .*expected a model card"):
        read_card(tmp_path)


def test_a_card_of_others_leaves_title_and_licence_open() -> None:
    assert card_facts("nothing") == {"title": "a model without a title", "licence": "unknown: see the model card"}


def test_the_example_without_kkanji_agrees_with_predict(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    files = [
        printed(tmp_path / "clean.png", 6, side=64, paper=0, ink=255),
        printed(tmp_path / "negative.png", 3, side=64, paper=255, ink=0),
    ]
    reader = Predictor(folder, torch.device("cpu"))
    command = [sys.executable, str(EXAMPLE), str(folder / ONNX), *map(str, files)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for line, expected in zip(lines[::5], predict_files(reader, files, top=5), strict=True):
        name, character, label, probability = line.split()[:4]
        assert name == str(expected.file) and (character, label) == (
            expected.guesses[0].character,
            expected.guesses[0].label,
        )
        assert float(probability.rstrip("%")) == pytest.approx(100 * expected.guesses[0].probability, abs=0.5)


def test_timm_loads_the_folder(folder: Path) -> None:
    images = torch.from_numpy(trial_images(tuple(CHARACTERS)))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    with torch.inference_mode():
        (found,) = ImageClassifier(model, 0.5)(images)
        (expected,) = ImageClassifier(Predictor(folder, torch.device("cpu")).model, 0.5)(images)
    assert torch.allclose(found, expected, atol=1e-5)
    assert tuple(model.default_cfg["input_size"]) == (1, 64, 64)
    assert model.default_cfg["label_names"] == list(ClassMap.of(map(ord, CHARACTERS)).labels)


def test_an_onnx_file_that_predicts_differently_is_refused(folder: Path) -> None:
    """Another temperature stands for an exporter's mistake."""
    reader = Predictor(folder, torch.device("cpu"))
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime's probabilities differ from torch's by 0\.\d+"):
        compare(ImageClassifier(reader.model, 0.7), (folder / ONNX).read_bytes(), trial_images(tuple(CHARACTERS)))


def test_a_refused_export_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InputError("differs")

    monkeypatch.setattr(exporting, "onnx_bytes", refuse)
    with pytest.raises(InputError, match="differs"):
        export(trained, tmp_path / "model", card="", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_what_was_exported_can_be_exported_again(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "again", card=CARD, temperature=0.5)
    for name in ("model.safetensors", "state.json", "index.json", "config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_an_existing_folder_is_kept_without_overwrite(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "model", card="first")
    with pytest.raises(InputError):
        export(trained, tmp_path / "model", card="second")
    assert (tmp_path / "model" / "README.md").read_text() == "first"
    export(trained, tmp_path / "model", card="second", overwrite=True)
    assert (tmp_path / "model" / "README.md").read_text() == "second"
