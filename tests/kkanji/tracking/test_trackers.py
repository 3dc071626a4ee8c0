"""Runs followed by experiment trackers, offline: what they keep is read back from their own files."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from kkanji.config import TRACKERS, train_config
from kkanji.tracking.trackers import Trackers, add_report, require_trackers
from shards import InputError

SHEET = np.full((20, 30, 3), 90, np.uint8)


def follow(run: Path, name: str) -> None:
    trackers = Trackers([name], run)
    trackers.options({"lr": 0.001, "model": "resnet18", "init": None})
    trackers.scalars({"train/loss": 0.5, "images": 64}, 4)
    trackers.picture("val/confusions", SHEET, 4)
    trackers.files(run / "config.json", run / "absent.csv")
    trackers.finish()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "report.html").write_text("<p>")
    return folder


def test_mlflow_keeps_a_run_in_a_folder_and_goes_on_with_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path / 'mlruns'}")
    follow(run, "mlflow")
    follow(run, "mlflow")  # resumed
    add_report(run, run / "report.html")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("kkanji").experiment_id])
    assert found.info.run_name == "first" and found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.001", "model": "resnet18", "init": "None"}
    points = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(4, 0.5)] * 2
    assert {each.path for each in client.list_artifacts(found.info.run_id)} == {
        "config.json",
        "pictures",
        "report.html",
    }
    pictures = [each.path for each in client.list_artifacts(found.info.run_id, "pictures")]
    assert pictures == ["pictures/val_confusions_00000004.png"]


def test_wandb_keeps_a_run_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    follow(run, "wandb")
    number = json.loads((run / "trackers.json").read_text())["wandb"]
    (kept,) = run.glob(f"wandb/offline-run-*-{number}")
    records = list(wandb_records(kept / f"run-{number}.wandb"))
    (begun,) = (each.run for each in records if each.HasField("run"))
    options = {item.key: json.loads(item.value_json) for each in records for item in each.config.update}
    options |= {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (begun.project, begun.display_name) == ("kkanji", "first")
    assert options["lr"] == 0.001 and options["model"] == "resnet18"
    points = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in each.history.item}
        for each in records
        if each.HasField("history")
    ]
    assert points[0]["_step"] == 4 and points[0]["train/loss"] == 0.5 and points[0]["images"] == 64
    assert len(list(kept.glob("files/media/images/val/*.png"))) == 1
    (artifact,) = (each for each in records if each.HasField("artifact") or each.request.HasField("log_artifact"))
    assert "config.json" in str(artifact)


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: after 7 bytes, blocks of 32 KiB in LevelDB's log format (crc, length, kind)."""
    from wandb.proto import wandb_internal_pb2 as messages

    record: Any = messages
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 0x8000 - at % 0x8000 < 7:  # too little of a block for another head
            at += 0x8000 - at % 0x8000
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record.Record.FromString(parts)
            parts = b""


def test_trackio_is_called_as_it_wants_to_be(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: trackio itself asks for an older pillow than ours."""
    calls: list[tuple[Any, ...]] = []
    stand_in = ModuleType("trackio")

    def begin(**options: Any) -> SimpleNamespace:
        calls.append(("init", options))
        return tracked

    tracked = SimpleNamespace(log=lambda values, **more: calls.append(("log", values, more)), finish=lambda: None)
    stand_in.init = begin  # type: ignore[attr-defined]
    stand_in.config = {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    trackers = Trackers(["trackio"], run)
    trackers.scalars({"train/loss": 0.5}, 4)
    trackers.finish()
    assert calls[0] == ("init", {"project": "kkanji", "name": "first", "resume": "allow"})
    assert calls[1][1] == {"train/loss": 0.5}


class Failing:
    """A tracker whose server goes away."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        self.logged = 0

    def start(self) -> None:
        """Nothing."""

    def log(self, *_args: Any, **_options: Any) -> None:
        self.logged += 1
        raise ConnectionError("no route to host")


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "trackio", Failing)
    trackers = Trackers(["trackio"], run)
    with pytest.warns(UserWarning, match="trackio: no route to host; the run goes on without it"):
        trackers.scalars({"train/loss": 0.5}, 4)
    trackers.scalars({"train/loss": 0.5}, 5)
    trackers.finish()


def test_a_tracker_that_does_not_start_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "start", Failing.log)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", Failing)
    with pytest.raises(InputError, match="--log-with mlflow: no route to host; or leave it out of --log-with"):
        Trackers(["mlflow"], run)


def test_names_are_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(data="data", output=Path("runs/x"), log_with="tensorboard, wandb,mlflow")
    assert config.checkpointing.trackers == ("wandb", "mlflow")
    with pytest.raises(InputError, match="--log-with wandb,neptune: expected one or more of tensorboard, wandb"):
        train_config(data="data", output=Path("runs/x"), log_with="wandb,neptune")
    monkeypatch.setattr("kkanji.tracking.trackers.find_spec", lambda _name: None)
    with pytest.raises(InputError, match="--log-with mlflow: no Python package mlflow; `pip install mlflow`"):
        require_trackers(["mlflow"])


def test_the_names_are_accelerates() -> None:
    assert set(TRACKERS) <= set(LOGGER_TYPE_TO_CLASS)
