"""What others get: a folder that is a checkpoint, a timm model and, where wanted, an ONNX file that reads alike."""

import json
from pathlib import Path

import pytest
import timm
import torch

import kkanji.models
from kkanji import checkpoint
from kkanji.checkpoint import export as exporting
from kkanji.checkpoint.export import ONNX, ImageClassifier, compare, export, trial_images
from kkanji.classes import ClassMap
from kkanji.inference.predict import Predictor
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer
from shards import InputError

assert kkanji.models  # registers the networks
MODEL = "kkanji_efficientnet_fused_s"
CHARACTERS = "一二三人入大犬太土士"


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
    export(trained, output, card="# a card", temperature=0.5, onnx=True)
    return output


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


def test_timm_loads_the_folder(folder: Path) -> None:
    images = torch.from_numpy(trial_images(tuple(CHARACTERS)))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    with torch.inference_mode():
        found = ImageClassifier(model, 0.5)(images)
        expected = ImageClassifier(Predictor(folder, torch.device("cpu")).model, 0.5)(images)
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

    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "compare", refuse)
    with pytest.raises(InputError, match="differs"):
        export(trained, tmp_path / "model", card="", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_without_overwrite(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "model", card="first")
    with pytest.raises(InputError):
        export(trained, tmp_path / "model", card="second")
    assert (tmp_path / "model" / "README.md").read_text() == "first"
    export(trained, tmp_path / "model", card="second", overwrite=True)
    assert (tmp_path / "model" / "README.md").read_text() == "second"
