"""`kkanji neighbours`: an index beside a model, how evaluate and predict use it, characters added by images alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import kkanji.models  # noqa: F401  registers the networks
from kkanji import checkpoint
from kkanji.checkpoint.export import export as write_export
from kkanji.checkpoint.neighbours import read_settings
from kkanji.data.training_set import class_map, open_set
from kkanji.evaluation.predict_split import describe, training_originals
from kkanji.inference.predict import Predictor, predict_files
from kkanji.models import create_model
from kkanji.neighbours.index import FILE
from kkanji.neighbours.made import make
from kkanji.training.optimizers import create_optimizer
from launch.evaluate import EvaluateConfig, evaluate
from launch.export import ExportConfig, export
from launch.neighbours import NeighboursConfig, neighbours
from shards import InputError
from tests.making import SAMPLE

MODEL = "kkanji_efficientnet_fused_s"


@pytest.fixture(scope="module")
def exported(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of a network that has learnt nothing, which lists its training originals."""
    data, run = open_set(tiny_set), tmp_path_factory.mktemp("exported") / "run"
    torch.manual_seed(0)
    model = create_model(MODEL, data.manifest.classes)
    identity = data.manifest.identity()
    best = checkpoint.save(
        run / "checkpoints",
        1,
        model=model,
        optimizer=create_optimizer(model, "sgd", lr=0.1, weight_decay=0.0),
        state={
            "config": {"model": MODEL, "data": str(tiny_set)},
            "data": identity,
            "training_originals": training_originals(data).tolist(),
        },
        classes=class_map(data),
        best=True,
    )
    facts = {"config": {"model": MODEL, "epochs": 2, "batch_size": 16}, "environment": {}, "data": describe(data)}
    (run / "config.json").write_text(json.dumps(facts))
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set), output=run, temperature=True))
    export(ExportConfig(checkpoint=best, output=run.parent / "model"))
    return run.parent / "model"


@pytest.fixture(scope="module")
def indexed(exported: Path, tiny_set: Path) -> Path:
    output = exported.with_name("indexed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launch.index_building.MADE", 12)
        neighbours(NeighboursConfig(checkpoint=exported, data=str(tiny_set), output=output))
    return output


def evaluation(model: Path, data: Path, output: Path, **options: Any) -> dict[str, Any]:
    evaluate(EvaluateConfig(checkpoint=model, data=str(data), output=output, **options))
    record: dict[str, Any] = json.loads((output / "evaluation.json").read_text())
    return record


def test_neighbours_are_indexed_chosen_stated_and_used(
    exported: Path, indexed: Path, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a network that knows nothing, the nearest images are better guesses than its own."""
    plain = evaluation(exported, tiny_set, tmp_path)
    found = evaluation(indexed, tiny_set, tmp_path)
    assert f"neighbours           {found['neighbours']['count']} vote at temperature" in capsys.readouterr().out
    assert found["top1"] > plain["top1"] + 0.2 and plain["neighbours"] is None
    assert found["disjoint"] is True and found["stored_temperature"] == 1
    alone = evaluation(indexed, tiny_set, tmp_path, neighbours=False)
    assert alone["top1"] == plain["top1"] and alone["loss"] == pytest.approx(plain["loss"])
    card = (indexed / "README.md").read_text()
    assert (
        f"`{FILE}`: 108 training images as 84 vectors of 64 bytes; the" in card
        and "On the other half, 18 images: top-1" in card
    )
    assert timm.create_model(f"local-dir:{indexed}", pretrained=True).num_classes == 6  # as before


def test_predict_reads_as_evaluate_does_and_says_what_is_no_character(
    indexed: Path, tiny_set: Path, tmp_path: Path
) -> None:
    predictor = Predictor(indexed, torch.device("cpu"))
    images = open_set(tiny_set).split("val").collect(np.arange(36))
    found = predictor.judged(images.images, 1)
    own = [predictor.classes.ids[class_map(open_set(tiny_set)).code_points[label]] for label in images.labels]
    right = np.mean(
        [ord(each.guesses[0].character) == predictor.classes.code_points[n] for each, n in zip(found, own, strict=True)]
    )
    assert right == evaluation(indexed, tiny_set, tmp_path)["top1"]
    assert sum(each.doubt is None for each in found) >= 28
    Image.fromarray(make(images.images, "noise", 1, seed=3)[0]).save(tmp_path / "noise.png")
    noise = next(predict_files(predictor, [tmp_path / "noise.png"], top=2))
    assert noise.doubt and noise.unknown is not None and noise.unknown > 0.5 and len(noise.guesses) == 2


def test_characters_are_added_by_their_images_alone(indexed: Path, tiny_set: Path, tmp_path: Path) -> None:
    source = sorted(SAMPLE.iterdir())[10]  # not among the six of the set
    shutil.copytree(source, tmp_path / "images" / source.name, ignore=lambda _, names: sorted(names)[:4])
    neighbours(NeighboursConfig(checkpoint=indexed, images=tmp_path / "images", output=tmp_path / "larger"))
    predictor = Predictor(tmp_path / "larger", torch.device("cpu"))
    assert predictor.classes.labels[:6] == Predictor(indexed, torch.device("cpu")).classes.labels
    assert predictor.classes.labels[6:] == (source.name,)
    held_out = [Path(each) for each in sorted(source.iterdir())[:4]]
    others = [min(each.iterdir()) for each in sorted(SAMPLE.iterdir())[:6]]
    assert _mean_probability(predictor, held_out, source.name) > _mean_probability(predictor, others, source.name)
    assert timm.create_model(f"local-dir:{tmp_path / 'larger'}", pretrained=True).num_classes == 7
    assert (
        "20 images of 1 character added without training, 1 of them new"
        in (tmp_path / "larger" / "README.md").read_text()
    )
    again = evaluation(tmp_path / "larger", tiny_set, tmp_path)
    assert again["disjoint"] is True
    own = checkpoint.read_originals(tmp_path / "larger")
    assert len(own) == len(checkpoint.read_originals(indexed)) + 20


def test_an_export_of_a_model_keeps_its_neighbours(indexed: Path, tmp_path: Path) -> None:
    write_export(indexed, tmp_path / "again", card="# A model")
    assert (tmp_path / "again" / FILE).read_bytes() == (indexed / FILE).read_bytes()
    assert read_settings(tmp_path / "again") == read_settings(indexed)


def test_a_model_trained_on_everything_takes_the_settings_of_another(
    exported: Path, indexed: Path, tiny_set: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(exported, whole)
    originals = checkpoint.originals_bytes(open_set(tiny_set).split("val").sources())
    rehash(whole, "originals.npy", originals)
    options = {"checkpoint": whole, "data": str(tiny_set), "output": tmp_path / "out"}
    with pytest.raises(InputError, match=r"not proven .*; give the settings of a model that was as --settings-of"):
        neighbours(NeighboursConfig(**options))  # type: ignore[arg-type]
    neighbours(NeighboursConfig(**options, settings_of=indexed))  # type: ignore[arg-type]
    assert read_settings(tmp_path / "out") == read_settings(indexed)
    assert "mixed as in indexed: the" in (tmp_path / "out" / "README.md").read_text()


def _mean_probability(predictor: Predictor, files: list[Path], label: str) -> float:
    guesses = [guess for each in predict_files(predictor, files, top=7) for guess in each.guesses]
    return sum(guess.probability for guess in guesses if guess.label == label) / len(files)


def rehash(path: Path, name: str, content: bytes) -> None:
    """Replace a file of a folder, and its sha256 in the manifest."""
    from hashlib import sha256

    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text()) | {name: sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_damaged_or_strange_index_is_refused(indexed: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(indexed, tmp_path / "model"))
    content = (model / FILE).read_bytes()
    (model / FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=rf"{FILE}: sha256"):
        Predictor(model, torch.device("cpu"))
    rehash(model, FILE, content[:-8])
    with pytest.raises(InputError, match=r"not a safetensors file.*make its index again with `kkanji neighbours`"):
        Predictor(model, torch.device("cpu"))
    rehash(model, FILE, content)
    state = checkpoint.read_state(model)
    for wrong in ({"neighbours": {"count": 0}}, {"neighbours": 3}, {"unknown": {"weights": [], "threshold": 0}}):
        rehash(model, "state.json", json.dumps(state | wrong).encode())
        with pytest.raises(InputError, match=r"state.json: neighbours: "):
            Predictor(model, torch.device("cpu"))


def test_misuse_says_what_to_do(exported: Path, indexed: Path, tiny_set: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", str(tiny_set)
    with pytest.raises(InputError, match="either --data SET, to make an index, or --images FOLDER"):
        NeighboursConfig(checkpoint=exported, output=out)
    with pytest.raises(InputError, match=r"not an exported model; make one of it with `kkanji export` first"):
        neighbours(NeighboursConfig(checkpoint=tmp_path, data=data, output=out))
    with pytest.raises(InputError, match=rf"has no {FILE}; make it with `kkanji neighbours"):
        neighbours(NeighboursConfig(checkpoint=exported, images=SAMPLE, output=out))
    with pytest.raises(InputError, match=r"--bytes-per-vector 7: does not divide the index's 128 dimensions; give 32"):
        neighbours(NeighboursConfig(checkpoint=exported, data=data, output=out, bytes_per_vector=7))
    with pytest.raises(InputError, match=r"no images; expected a folder of images for each character"):
        neighbours(NeighboursConfig(checkpoint=indexed, images=tmp_path, output=out))
    assert not out.exists()
