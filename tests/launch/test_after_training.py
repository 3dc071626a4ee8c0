"""Evaluate, export and predict on a run whose network has learnt nothing: what they write, say and refuse."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kkanji import checkpoint
from kkanji.checkpoint import export as exporting
from kkanji.data.training_set import class_map, open_set
from kkanji.evaluation.predict_split import describe, training_originals
from kkanji.models import create_model
from kkanji.training.optimizers import create_optimizer
from launch.average import AverageConfig, average
from launch.evaluate import EvaluateConfig, evaluate
from launch.export import ExportConfig, export
from launch.predict import PredictConfig, predict
from shards import InputError
from tests.faults.servers.hub import Hub
from tests.launch.commands import DEADLINE_S, ROOT, environment

SAMPLE = sorted((Path(__file__).parents[2] / "sample" / "kkanji2" / "U+4E09").iterdir())
MODEL = "kkanji_efficientnet_fused_s"


@pytest.fixture
def best(tiny_set: Path, tmp_path: Path) -> Path:
    """The best checkpoint of a run that was never trained."""
    data, run = open_set(tiny_set), tmp_path / "run"
    torch.manual_seed(0)
    model = create_model(MODEL, data.manifest.classes)
    path = checkpoint.save(
        run / "checkpoints",
        1,
        model=model,
        optimizer=create_optimizer(model, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL}, "training_originals": training_originals(data).tolist()},
        classes=class_map(data),
        best=True,
    )
    options = {"model": MODEL, "epochs": 2, "batch_size": 16}
    facts = {"config": options, "environment": {}, "data": describe(data)}
    (run / "config.json").write_text(json.dumps(facts))
    (run / "log.jsonl").write_text("")
    return path


def say(path: Path, **state: Any) -> None:
    """Have a checkpoint's state say this, under its hash."""
    rehash(path, "state.json", json.dumps(checkpoint.read_state(path) | state).encode())


def change_weights(path: Path) -> None:
    """Another bias of the classifier, under its hash."""
    weights = safetensors.torch.load_file(path / "model.safetensors")
    weights["classifier.bias"] += 1
    rehash(path, "model.safetensors", safetensors.torch.save(weights))


def rehash(path: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and its sha256 in the manifest."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] = hashlib.sha256(content).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def evaluation(best: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((best.parent.parent / "evaluation.json").read_text())
    return record


@pytest.mark.parametrize("name", ["config.json", "evaluation.json"])
def test_a_changed_field_of_the_run_stops_an_export_in_a_sentence(
    best: Path, tiny_set: Path, tmp_path: Path, name: str
) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    path = best.parent.parent / name
    record = json.loads(path.read_text())
    for field in record:
        path.write_text(json.dumps({key: value for key, value in record.items() if key != field}))
        try:
            export(ExportConfig(checkpoint=best, output=tmp_path / "model", overwrite=True))
        except InputError as error:
            assert str(best.parent.parent) in str(error) and len(str(error)) < 500
    path.write_text(json.dumps(record))
    export(ExportConfig(checkpoint=best, output=tmp_path / "model", overwrite=True))


def test_evaluate_with_views_and_temperature(best: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set), tta=5, temperature=True))
    found = evaluation(best)
    assert (found["images"], found["tta"], found["classes"], found["evaluated_classes"]) == (36, 5, 6, 6)
    assert found["without_images"] == found["without_training"] == []
    assert found["temperature"]["images"] == 36
    printed = capsys.readouterr().out
    assert "classes evaluated    6 of 6" in printed and "(cross-fitted)" in printed
    page = " ".join((best.parent.parent / "report.html").read_text().split())
    assert (
        "averaging the probabilities of 5 views of each image" in page
        and "<strong>temperature of" in page
        and "Lineage known." in page
    )


def test_the_training_split_is_not_unseen_handwriting(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set), split="train"))
    assert evaluation(best)["images"] == 108
    assert "Warning: the model was trained on the evaluated images." in (best.parent.parent / "report.html").read_text()
    export(ExportConfig(checkpoint=best, output=tmp_path / "model"))
    assert "the same images that it was trained on" in (tmp_path / "model" / "README.md").read_text()


def test_a_card_says_how_the_run_was_extended(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    facts = json.loads((best.parent.parent / "config.json").read_text())
    facts["extensions"] = [{"step": 7, "epoch": 1.0, "changes": {"epochs": [1, 2], "lr": [0.01, 0.001]}}]
    (best.parent.parent / "config.json").write_text(json.dumps(facts))
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    export(ExportConfig(checkpoint=best, output=tmp_path / "model"))
    card = " ".join((tmp_path / "model" / "README.md").read_text().split())
    assert "2 epochs of global batch 16, extended after epoch 1 (epochs 2 instead of 1, lr 0.001 instead of" in card


def test_another_set_proves_nothing(best: Path, tiny_set: Path) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    facts = json.loads((best.parent.parent / "config.json").read_text())
    facts["data"]["identity"] = "0" * 64
    (best.parent.parent / "config.json").write_text(json.dumps(facts))
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    assert "independence of this split cannot be proven" in (best.parent.parent / "report.html").read_text()


def test_a_class_that_was_never_trained_on_is_named(
    best: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if class 2 had come in by validation images alone."""
    originals = checkpoint.read_state(best)["training_originals"]
    originals[2] = 0
    say(best, training_originals=originals)
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    label = class_map(open_set(tiny_set)).labels[2]
    assert evaluation(best)["without_training"] == [label]
    assert evaluation(best)["bins"][0]["training_images"] == "0" and evaluation(best)["bins"][0]["images"] == 6
    assert f"never trained on     {label}" in capsys.readouterr().out


def test_a_class_of_rendered_images_alone_was_trained_on_but_has_no_originals(best: Path, tiny_set: Path) -> None:
    originals = checkpoint.read_state(best)["training_originals"]
    drawn = [0] * len(originals)
    originals[2], drawn[2] = 0, 9
    say(best, training_originals=originals, training_drawn=drawn)
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    assert evaluation(best)["without_training"] == []
    assert evaluation(best)["bins"][0]["training_images"] == "0" and evaluation(best)["bins"][0]["images"] == 6


def test_the_temperature_of_a_folder_is_stated_beside_that_of_1(
    best: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    plain = evaluation(best)
    assert plain["stored_temperature"] == 1 and "stored temperature" not in capsys.readouterr().out
    say(best, temperature=0.5)
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    found = evaluation(best)
    assert found["calibration_error"] == plain["calibration_error"] != found["stored_calibration_error"]
    stated = (
        f"stored temperature   0.500: calibration_error {found['stored_calibration_error']:.4f} as predict and ONNX"
    )
    assert stated in capsys.readouterr().out


def test_an_export_is_pushed_to_the_hub(
    best: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    with Hub(token="hf_test") as hub:  # noqa: S106
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        export(ExportConfig(checkpoint=best, output=tmp_path / "model", push_to_hub="me/kanji"))
    assert f"pushed to {hub.address}/me/kanji/commit/" in capsys.readouterr().out
    card = hub.repositories["me/kanji"]["README.md"].decode()
    assert f"value: {evaluation(best)['top1']:.6g}" in card and "type: top_5_accuracy" in card
    with pytest.raises(InputError, match="--push-to-hub kanji: expected owner/name"):
        export(ExportConfig(checkpoint=best, output=tmp_path / "other", push_to_hub="kanji"))
    assert not (tmp_path / "other").exists()


def test_the_documented_commands_bring_a_model_from_the_hub(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    """Word for word, in new processes: what has imported the Hub's client keeps the address that it found then."""
    section = (ROOT / "docs" / "predict.md").read_text().partition("**From the Hub.**")[2]
    commands, lines = (section.partition(f"```{language}\n")[2].partition("```")[0] for language in ("bash", "python"))
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    shutil.copytree(tmp_path / "run", tmp_path / "runs" / "mine", symlinks=True)
    shutil.copy(SAMPLE[0], tmp_path / "crop.png")
    with Hub(token="hf_test") as hub:  # noqa: S106
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        known = {"HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "home")}
        options: dict[str, Any] = {"cwd": tmp_path, "env": environment(**known, PATH=programs), "timeout": DEADLINE_S}
        read = subprocess.run(["bash", "-ec", commands], **options, capture_output=True, text=True, check=False)
        probe = f"{lines}\nprint(network.num_classes, type(network).__module__)"
        built = subprocess.run([sys.executable, "-c", probe], **options, capture_output=True, text=True, check=False)
    assert read.returncode == 0 and "crop.png  " in read.stdout and (tmp_path / "kanji").is_dir(), read.stderr
    assert built.returncode == 0 and built.stdout.split() == ["6", "kkanji.models"], built.stderr
    assert hub.private["owner/name"]


def test_the_card_has_the_figures_and_the_folder_the_temperature(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set), temperature=True))
    export(ExportConfig(checkpoint=best, output=tmp_path / "model"))
    card, found = (tmp_path / "model" / "README.md").read_text(), evaluation(best)
    assert f"top-1 {found['top1']:.2%}" in card and "proven disjoint from training" in card and "- Data: drawn" in card
    assert f"Temperature {found['temperature']['value']:.3f}, fitted on 36 images of split `val`" in card
    assert checkpoint.read_state(tmp_path / "model")["temperature"] == found["temperature"]["value"]


def test_an_export_needs_its_own_evaluation(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.json"):
        export(ExportConfig(checkpoint=best, output=tmp_path / "model"))
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    other = best.parent / "step-000000002"
    shutil.copytree(best, other)
    change_weights(other)
    with pytest.raises(InputError, match=rf"is of step-000000001, and of other weights than {other} has; run"):
        export(ExportConfig(checkpoint=other, output=tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_an_evaluation_does_not_count_for_other_weights_in_the_same_place(
    best: Path, tiny_set: Path, tmp_path: Path
) -> None:
    """Averaged again, the folder has its old name; of a run that is gone on, so has the one that figures come from."""
    other, mean = tmp_path / "other", best.parent / "averaged"
    shutil.copytree(best, other)
    average(AverageConfig(checkpoints=(best, other), output=mean))
    evaluate(EvaluateConfig(checkpoint=mean, data=str(tiny_set)))
    change_weights(other)
    average(AverageConfig(checkpoints=(best, other), output=mean, overwrite=True))
    for figures_of in (None, best.parent.parent):
        with pytest.raises(InputError, match=rf"evaluation.json is of averaged, .*evaluate --checkpoint {mean}` first"):
            export(ExportConfig(checkpoint=mean, output=tmp_path / "model", figures_of=figures_of))
    evaluate(EvaluateConfig(checkpoint=mean, data=str(tiny_set)))
    export(ExportConfig(checkpoint=mean, output=tmp_path / "model"))


def test_an_exported_folder_needs_a_folder_for_its_results(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    export(ExportConfig(checkpoint=best, output=tmp_path / "models" / "first"))
    with pytest.raises(InputError, match=r"lies in no run's folder.*; give a folder for them as --output"):
        evaluate(EvaluateConfig(checkpoint=tmp_path / "models" / "first", data=str(tiny_set)))
    results = tmp_path / "new" / "results"
    evaluate(EvaluateConfig(checkpoint=tmp_path / "models" / "first", data=str(tiny_set), output=results))
    assert (results / "evaluation.json").is_file()


def test_a_run_on_all_images_shows_the_figures_of_one_that_left_some_out(
    best: Path, tiny_set: Path, tmp_path: Path
) -> None:
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set), temperature=True))
    run, everything = best.parent.parent, tmp_path / "everything"
    shutil.copytree(best, everything / "checkpoints" / "best")
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["init"], facts["data"]["train_images"] = str(best), 144
    (everything / "config.json").write_text(json.dumps(facts))
    export(ExportConfig(checkpoint=everything / "checkpoints" / "best", output=tmp_path / "model", figures_of=run))
    card = " ".join((tmp_path / "model" / "README.md").read_text().split())
    assert "Trained on 144 images" in card and "begun with the weights of an earlier run" in card
    assert "This model was not evaluated. A run trained on 108 images was, on 36 images of split `val`, whose" in card
    assert f"top-1 {evaluation(best)['top1']:.2%}" in card
    temperature = evaluation(best)["temperature"]["value"]
    assert checkpoint.read_state(tmp_path / "model")["temperature"] == temperature


def test_a_mean_of_runs_is_evaluated_and_exported_as_the_first_ones(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    other, mean = tmp_path / "other", best.parent / "averaged"
    shutil.copytree(best, other)
    average(AverageConfig(checkpoints=(best, other), output=mean))
    evaluate(EvaluateConfig(checkpoint=mean, data=str(tiny_set)))
    assert evaluation(best)["checkpoint"] == "averaged" and evaluation(best)["disjoint"] is False
    export(ExportConfig(checkpoint=mean, output=tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "then averaged with other runs' weights" in card and "unknown lineage" in card
    assert "averaged" not in checkpoint.read_state(tmp_path / "model")["config"]


def test_an_exported_folder_proves_what_it_never_saw(best: Path, tiny_set: Path, tmp_path: Path) -> None:
    """Wherever it is evaluated; and a run that begins with it says so."""
    data = open_set(tiny_set)
    say(best, config=checkpoint.read_state(best)["config"] | {"data": str(tiny_set)}, data=data.manifest.identity())
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set)))
    export(ExportConfig(checkpoint=best, output=tmp_path / "model"))
    assert set(checkpoint.read_originals(tmp_path / "model")) == set(data.split("train").sources())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for split, disjoint in (("val", True), ("train", False)):
        options = {"data": str(tiny_set), "split": split, "output": elsewhere}
        evaluate(EvaluateConfig(checkpoint=tmp_path / "model", **options))  # type: ignore[arg-type]
        assert json.loads((elsewhere / "evaluation.json").read_text())["disjoint"] is disjoint


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(SAMPLE[0], folder / "a.png")
    (folder / "b.png").write_text("no image")
    shutil.copy(SAMPLE[1], folder / "c, d.png")
    (folder / "notes.txt").write_text("")
    return folder


def test_csv_has_a_row_for_each_reading(best: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(PredictConfig(images=(pictures,), checkpoint=best, top=2, format="csv", max_unreadable=1))
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert [(Path(row["file"]).name, row["rank"]) for row in rows] == [
        ("a.png", "1"), ("a.png", "2"), ("b.png", "0"), ("c, d.png", "1"), ("c, d.png", "2"),
    ]  # fmt: skip
    assert "not a readable image" in rows[2]["error"] and not rows[0]["error"] and not rows[0]["doubt"]
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"])
    assert "images/s on cpu; 1 unreadable, 1 other files left out" in captured.err


def test_json_has_a_line_for_each_file(best: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(PredictConfig(images=(pictures,), checkpoint=best, top=3, format="json", max_unreadable=1))
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(len(entry["guesses"]), "error" in entry) for entry in entries] == [(3, False), (0, True), (3, False)]


def test_a_bad_file_among_many_is_named_the_rest_predicted_and_the_exit_code_1(
    best: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        predict(PredictConfig(images=(pictures,), checkpoint=best))
    captured = capsys.readouterr()
    assert end.value.code == 1 and len(captured.out.splitlines()) == 2
    assert "b.png: not a readable image" in captured.err and "1 unreadable, --max-unreadable is 0" in captured.err
    predict(PredictConfig(images=(pictures,), checkpoint=best, max_unreadable=1))  # as the message says
    for path in (pictures / "a.png", pictures / "c, d.png"):
        path.unlink()
    shutil.copy(pictures / "b.png", pictures / "e.png")
    with pytest.raises(InputError, match="all 2 files are unreadable"):
        predict(PredictConfig(images=(pictures,), checkpoint=best))


def test_misuse_names_only_the_option_at_fault() -> None:
    with pytest.raises(InputError, match="no image given"):
        PredictConfig(images=())
    with pytest.raises(InputError, match=r"^--top 0: expected 1 or more characters$"):
        PredictConfig(images=(Path("x"),), top=0)


def test_an_export_without_an_evaluation_says_what_to_run(best: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.json: .*; run `kkanji evaluate` on the checkpoint first"):
        export(ExportConfig(checkpoint=best, output=tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_an_exported_folder_is_exported_again_with_its_card(
    best: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "onnx_bytes", lambda *_: b"takes seconds")
    evaluate(EvaluateConfig(checkpoint=best, data=str(tiny_set), temperature=True))
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    export(ExportConfig(checkpoint=best, output=first))
    export(ExportConfig(checkpoint=first, output=second, onnx=True))
    assert (second / "model.onnx").is_file()
    assert checkpoint.read_state(second)["temperature"] == checkpoint.read_state(first)["temperature"]
    card = (first / "README.md").read_text()
    extended = (second / "README.md").read_text()
    assert "`model.onnx` takes" in extended and set(card.splitlines()) < set(extended.splitlines())
    export(ExportConfig(checkpoint=second, output=third))
    assert (third / "README.md").read_text().split() == card.split()
    with pytest.raises(InputError, match="leave out --figures-of"):
        export(ExportConfig(checkpoint=second, output=tmp_path / "fourth", figures_of=first))


def test_an_export_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give --output FOLDER for a model, --page FOLDER for a page, or both"):
        ExportConfig(checkpoint=tmp_path)
    with pytest.raises(InputError, match=r"--onnx goes into the model's folder; give --output FOLDER too"):
        ExportConfig(checkpoint=tmp_path, onnx=True, page=tmp_path / "page")
    with pytest.raises(InputError, match=r"--page-images is for a page; give --page FOLDER too"):
        ExportConfig(checkpoint=tmp_path, output=tmp_path / "model", page_images=tmp_path)
