"""Training as a user starts it: end to end, killed and resumed, on two ranks as on one, with bad input."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from kkanji.checkpoint.load import load_trained
from kkanji.config import read_options
from kkanji.environment import has_bfloat16
from tests.launch.commands import ROOT, Result, begin, lines, losses, start, train_command
from tests.warm_python import WarmPython

STEPS = 14


@pytest.fixture(scope="module")
def undisturbed(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/configs/cpu.yaml"))
    result = start(*launcher, *train_command(tiny_set, run))
    assert result.returncode == 0, result.stderr
    assert ("torch uses 1 thread(s)" in result.stderr) == (len(os.sched_getaffinity(0)) > 1)
    return run


def test_every_log_line_has_speed_and_wait(undisturbed: Path) -> None:
    entries = lines(undisturbed)
    assert [entry["step"] for entry in entries] == list(range(1, STEPS + 1))
    for entry in entries:
        assert entry["images_per_s"] > 0
        assert 0 <= entry["wait_fraction"] <= 1
        assert (entry["steps"], entry["epochs"]) == (STEPS, 2)
        assert entry["left_s"] >= 0 and entry["seconds"] > 0
    assert entries[-1]["samples"] == 216  # the last batch ends with the last epoch


def test_a_run_leaves_what_it_promises(undisturbed: Path) -> None:
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["config"]["optimization"]["batch_size"] == 16
    assert config["config"]["runtime"]["micro_batch"] == 16
    assert config["data"]["lineage"] == "known"
    assert config["environment"]["torch"]
    assert [entry["step"] for entry in lines(undisturbed, "evaluation")] == [7, STEPS]
    assert (undisturbed / "checkpoints" / "last").resolve().name == f"step-{STEPS:09d}"
    assert (undisturbed / "checkpoints" / "best").exists()
    assert list((undisturbed / "tensorboard").glob("events.*"))


def test_evaluate_report_and_predict(undisturbed: Path, tiny_set: Path) -> None:
    best = str(undisturbed / "checkpoints" / "best")
    result = start(str(ROOT / "launch/evaluate.py"), "--checkpoint", best, "--data", str(tiny_set))
    assert result.returncode == 0, result.stderr
    summary = json.loads((undisturbed / "evaluation.json").read_text())
    logged = lines(undisturbed, "evaluation")
    assert summary["images"] == 36
    assert summary["top1"] == max(entry["top1"] for entry in logged)
    assert "<html" in (undisturbed / "report.html").read_text()
    picture = sorted((ROOT / "sample/kkanji2/U+4E09").iterdir())[0]
    result = start(
        str(ROOT / "launch/predict.py"), str(picture), "--checkpoint", best, "--format", "json", "--top", "3"
    )
    assert result.returncode == 0, result.stderr
    (entry,) = (json.loads(line) for line in result.stdout.splitlines())
    probabilities = [guess["probability"] for guess in entry["guesses"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(probabilities) == 3


def test_export_reads_like_its_checkpoint(undisturbed: Path, tiny_set: Path, tmp_path: Path) -> None:
    best, model = undisturbed / "checkpoints" / "best", tmp_path / "model"
    evaluate, export, predict = (str(ROOT / "launch" / f"{name}.py") for name in ("evaluate", "export", "predict"))
    assert start(evaluate, "--checkpoint", str(best), "--data", str(tiny_set)).returncode == 0
    result = start(export, "--checkpoint", str(best), "--output", str(model))
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in model.iterdir()) == [
        ".kkanji-output", "README.md", "config.json", "index.json", "manifest.json", "model.safetensors",
        "originals.npy", "state.json",
    ]  # fmt: skip
    size, whole = ((folder / "model.safetensors").stat().st_size for folder in (model, best))
    assert size < 0.55 * whole
    assert "36 images of split `val`" in (model / "README.md").read_text()
    picture = str(sorted((ROOT / "sample/kkanji2/U+4E09").iterdir())[0])
    texts = [start(predict, picture, "--checkpoint", str(folder)).stdout for folder in (model, best)]
    assert texts[0].split()[1:3] == texts[1].split()[1:3]


def kill_after_step(process: WarmPython, step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step {step} "):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
    pytest.fail(f"ended before step {step}")


def test_killed_and_resumed_computes_the_same(undisturbed: Path, tiny_set: Path, tmp_path: Path) -> None:
    """SIGKILL in the second epoch; --resume goes on from the checkpoint at step 8 with the same losses, bit for bit."""
    run = tmp_path / "killed"
    command = train_command(tiny_set, run, "--save-every", "4")
    with begin(*command) as process:
        kill_after_step(process, 10)
    result = start(*command, "--resume")
    assert result.returncode == 0, result.stderr
    assert "steps 8..14" in result.stdout
    assert losses(run) == losses(undisturbed)
    assert lines(run, "evaluation")[-1]["loss"] == lines(undisturbed, "evaluation")[-1]["loss"]


# Everything that has a state or follows a schedule, in one short run.
ALL_AT_ONCE = (
    *("--optimizer", "muon", "--ema-images", "40", "--mixup", "0.2", "--head", "cosine", "--schedule", "cosine"),
    *("--start-size", "32", "--full-size-at", "0.6", "--warmup-epochs", "0.5", "--label-smoothing", "0.1"),
    *("--weight-decay", "0.01"),
    *(("--precision", "bfloat16") if has_bfloat16(torch.device("cpu")) else ()),  # emulated it takes minutes
)
IN_A_FILE = """
augmentation: {augment_start: 0.2, unaugmented_epochs: 1}
regularisation: {mixup_stages: 2, drop_path: 0.2}
optimization: {clip_norm: 1.0, class_weight_exponent: 0.5}
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    file = tmp_path_factory.mktemp("config") / "all.yaml"
    file.write_text(IN_A_FILE)
    return (*ALL_AT_ONCE, "--config", str(file))


@pytest.fixture(scope="module")
def all_at_once(tiny_set: Path, everything: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "all"
    result = start(*train_command(tiny_set, run, *everything))
    assert result.returncode == 0, result.stderr
    return run


def test_a_run_begins_with_another_runs_weights_and_options(all_at_once: Path, tiny_set: Path, tmp_path: Path) -> None:
    """Of the same set, so that its evaluation stays without a leak; with averaged weights, which begin there too."""
    source, run = all_at_once / "checkpoints" / "last", tmp_path / "run"
    options = ("--config", str(all_at_once), "--init", str(source), "--lr", "1e-12", "--epochs", "1")
    result = start(*train_command(tiny_set, run, *options))
    assert result.returncode == 0 and "no epoch is augmented; --augment 0" in result.stderr, result.stderr
    config = read_options(json.loads((run / "config.json").read_text())["config"])
    assert (config["optimizer"], config["mixup_stages"], config["epochs"]) == ("muon", 2, 1)
    assert json.loads((run / "config.json").read_text())["data"]["lineage"] == "known"
    before, after = (load_trained(each / "checkpoints" / "last").state_dict() for each in (all_at_once, run))
    for name, value in after.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.allclose(value, before[name], atol=1e-6), name


def test_a_run_is_taught_by_others(undisturbed: Path, tiny_set: Path, tmp_path: Path) -> None:
    """The loss is against what they make of the images, not against the labels, and the set's lineage stays known."""
    source, run = undisturbed / "checkpoints" / "last", tmp_path / "run"
    options = ("--teachers", str(source), "--lr", "1e-12", "--augment", "0", "--epochs", "1")
    for weight in "01":
        (tmp_path / weight).write_text(f"distillation_weight: {weight}")
    result = start(*train_command(tiny_set, run, *options, "--config", str(tmp_path / "1")))
    assert result.returncode == 0, result.stderr
    recorded = json.loads((run / "config.json").read_text())
    assert recorded["config"]["regularisation"]["teachers"] == [str(source)] and recorded["data"]["lineage"] == "known"
    checkpoint = run / "checkpoints" / "best"
    evaluated = start(str(ROOT / "launch/evaluate.py"), "--checkpoint", str(checkpoint), "--data", str(tiny_set))
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((run / "evaluation.json").read_text())["disjoint"]
    labels = start(*train_command(tiny_set, tmp_path / "labels", *options, "--config", str(tmp_path / "0")))
    assert labels.returncode == 0, labels.stderr
    assert losses(run) != pytest.approx(losses(tmp_path / "labels"), rel=1e-3)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_run_goes_on_the_same(
    all_at_once: Path,
    everything: tuple[str, ...],
    tiny_set: Path,
    tmp_path: Path,
    sent: signal.Signals,
    code: int,
) -> None:
    """With averaged weights, mixing and growing images: the same losses, bit for bit, and the same weights."""
    run = tmp_path / "run"
    command = train_command(tiny_set, run, *everything)
    with begin(*command) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("step 2 "))
        process.send_signal(sent)
        rest = process.stdout.read()
        assert process.wait(timeout=30) == code
    stopped = lines(run)[-1]["step"]
    assert stopped < STEPS
    assert f"checkpoints/step-{stopped:09d}" in rest
    result = start(*command, "--resume")
    assert result.returncode == 0, result.stderr
    assert f"steps {stopped}..14" in result.stdout
    assert losses(run) == losses(all_at_once)
    for name in ("model.safetensors", "training.safetensors"):
        own, other = ((each / "checkpoints" / "last" / name).read_bytes() for each in (run, all_at_once))
        assert own == other
    assert not list((run / "checkpoints").glob(".*partial"))


def test_traces_are_written_on_request(tiny_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = start(*train_command(tiny_set, run, "--profile-steps", "2", "--epochs", "1"))
    assert result.returncode == 0, result.stderr
    (trace,) = (run / "profile").iterdir()
    assert "convolution" in trace.read_text()


def refused(result: Result) -> str:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_bad_input(undisturbed: Path, tiny_set: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert "no such folder" in refused(start(*train_command(nowhere, tmp_path / "run")))
    (tmp_path / "empty").mkdir()
    assert "no dataset.json" in refused(start(*train_command(tmp_path / "empty", tmp_path / "run")))
    assert "holds a run already" in refused(start(*train_command(tiny_set, undisturbed)))
    assert "--lr 0.5, was 0.001" in refused(start(*train_command(tiny_set, undisturbed, "--resume", "--lr", "0.5")))
    assert not (tmp_path / "run").exists()
