"""What a run leaves in TensorBoard, read back by TensorBoard's own reader."""

import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]
from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

from kkanji.tracking.board import THRESHOLDS
from kkanji.training.run_log import RunLog
from tests.faults.writers import fork, wait
from tests.kkanji.evaluation.synthetic import predictions_from

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
LABELS = torch.tensor([0, 1, 0, 0])  # the third is predicted wrongly

EVALUATED: dict[str, Any] = {"split": "val", "images": 10, "top1": 0.5, "top5": 0.5}
BINS = [{"training_images": "21-50", "images": 6, "top1": 0.25}, {"training_images": "151+", "images": 0, "top1": None}]
EVALUATED |= {"balanced_accuracy": 0.5, "f1_weighted": 0.5}


def images_of(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.full((len(positions), 64, 64), 200, np.uint8)


def show(log: RunLog, probabilities: torch.Tensor) -> None:
    counts = np.array([3, 1])
    predictions = predictions_from(probabilities, LABELS)
    at = {"samples": 100, "step": 10, "epoch": 2.5}
    log.predictions("val", at, predictions, characters="一二", training_counts=counts, images_of=images_of)


def open_log(run: Path, *, seen: int = 0, total: int = 100, enabled: bool = True, **options: Any) -> RunLog:
    return RunLog(
        run, total_images=total, seen_images=seen, seen_steps=seen // 10, enabled=enabled, options={"group": options}
    )


def log_step(log: RunLog, samples: int, loss: float) -> None:
    rates = {"lr": 1e-3, "images_per_s": 1.0, "wait_fraction": 0.0, "top1": 0.5}
    rates |= {"steps": 10, "epochs": 3, "seconds": 65.0, "left_s": 3700.0}
    log.step(step=samples // 10, samples=samples, epoch=samples / 40, loss=loss, **rates)


def log_evaluation(log: RunLog, samples: int, loss: float) -> None:
    log.evaluation(**EVALUATED, bins=BINS, step=samples // 10, samples=samples, epoch=samples / 40, loss=loss)


def points(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in board(run).Scalars(tag)]


def board(run: Path, folder: str = "tensorboard") -> Any:
    accumulator = EventAccumulator(str(run / folder))
    accumulator.Reload()
    return accumulator


def test_confusions_and_the_precision_recall_curve_are_in_tensorboard(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        show(log, PROBABILITIES)
    found = board(tmp_path)
    (picture,) = found.Images("val/confusions")
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        assert image.width > 300 and np.asarray(image).std() > 10
    (curve,) = found.Tensors("val/accepted_predictions")
    true_positives, false_positives, true_negatives, false_negatives, precision, recall = make_ndarray(
        curve.tensor_proto
    )
    assert curve.step == 100 and len(precision) == THRESHOLDS
    at = [round(share * (THRESHOLDS - 1)) for share in (0.0, 0.65, 0.75, 0.85, 1.0)]
    assert precision[at].tolist() == pytest.approx([0.75, 1, 1, 1, 1])
    assert recall[at].tolist() == pytest.approx([0.75, 0.75, 0.5, 0.25, 0])
    assert (true_positives + false_negatives == 4).all() and not true_negatives.any()
    assert false_positives[at].tolist() == [1, 0, 0, 0, 0]


def test_without_a_mistake_there_is_no_picture(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        show(log, torch.eye(2)[LABELS])
    assert board(tmp_path).Tags()["images"] == []


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    with open_log(tmp_path / "run", enabled=False) as log:
        show(log, PROBABILITIES)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("seen", "again", "steps", "evaluations"),
    [
        (80, [], [(20, 1), (40, 1), (60, 1), (80, 1)], [(40, 1), (80, 1)]),  # finished: nothing is left to train
        (50, [60, 80], [(20, 1), (40, 1), (60, 2), (80, 2)], [(40, 1), (80, 2)]),  # a checkpoint in mid-epoch
        (40, [60, 80], [(20, 1), (40, 1), (60, 2), (80, 2)], [(40, 1), (80, 2)]),  # a checkpoint at an epoch's end
        (0, [20, 40], [(20, 2), (40, 2)], [(40, 2)]),  # killed before the first checkpoint
    ],
    ids=["finished", "mid-epoch", "epoch end", "from the start"],
)
def test_a_resumed_run_keeps_the_points_up_to_its_checkpoint_and_drops_later_ones(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: int,
    again: list[int],
    steps: list[tuple[int, float]],
    evaluations: list[tuple[int, float]],
) -> None:
    """Epochs of 40 images, a line each 20; the first attempt logs losses of 1, the second of 2."""
    for attempt, begin, samples in ((1, 0, [20, 40, 60, 80]), (2, seen, again)):
        monkeypatch.setattr(time, "time", lambda hour=attempt: 3600.0 * hour)
        with open_log(tmp_path, seen=begin, total=80) as log:
            for position in samples:
                log_step(log, position, float(attempt))
                if position % 40 == 0:
                    log_evaluation(log, position, float(attempt))
    assert points(tmp_path, "train/loss") == steps
    assert points(tmp_path, "val/loss") == evaluations
    over_steps = board(tmp_path, "tensorboard/by_step").Scalars("train_by_step/loss")
    assert [(point.step, point.value) for point in over_steps] == [(image // 10, value) for image, value in steps]
    of_bins = board(tmp_path).Scalars("val_top1_by_training_originals/21-50")
    assert [(point.step, point.value) for point in of_bins] == [(image, 0.25) for image, _ in evaluations]


@pytest.mark.parametrize("clock", [(10, 20, 30, 40), (10, 10, 10, 10), (40, 30, 20, 10), (20, 40, 39, 30)], ids=str)
def test_the_last_start_counts_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: tuple[int, ...]
) -> None:
    """Starts within one second, and on machines whose clocks differ: TensorBoard reads files by the second in names."""
    for attempt, second in enumerate(clock):
        monkeypatch.setattr(time, "time", lambda second=second: float(second))
        with open_log(tmp_path, seen=20 * attempt, total=100) as log:
            for position in (20 * attempt + 20, 20 * attempt + 40):
                log_step(log, position, float(attempt))
    assert points(tmp_path, "train/loss") == [(20, 0), (40, 1), (60, 2), (80, 3), (100, 3)]
    over_steps = board(tmp_path, "tensorboard/by_step").Scalars("train_by_step/loss")
    assert [(point.step, point.value) for point in over_steps] == [(2, 0), (4, 1), (6, 2), (8, 3), (10, 3)]


def test_a_killed_run_has_the_points_that_it_logged(tmp_path: Path) -> None:
    """So many values that the thread which writes them is behind when the process dies, unless the log waits for it."""
    values: dict[str, Any] = {f"value{number}": 0.5 for number in range(2000)}

    def killed() -> None:
        with open_log(tmp_path) as log:
            log.evaluation(**EVALUATED, step=4, samples=40, epoch=1.0, loss=0.5, **values)
            os.kill(os.getpid(), signal.SIGKILL)

    assert wait(fork(killed)) == -signal.SIGKILL
    assert points(tmp_path, "val/value1999") == [(40, 0.5)]


def test_options_are_hyperparameters_of_the_run_itself(tmp_path: Path) -> None:
    with open_log(tmp_path, batch_size=64, lr=1e-3, init=None, compile=False):
        pass
    content = board(tmp_path).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert given["batch_size"].number_value == 64 and given["lr"].number_value == 1e-3
    assert given["init"].string_value == "None" and given["compile"].string_value == "False"
    assert {path.name for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()} == {"by_step"}


def test_each_class_has_a_line_and_recall_its_spread(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        show(log, PROBABILITIES)
    assert (tmp_path / "classes.csv").read_text().splitlines() == [
        "code point,character,training originals,images,right,predicted",
        "U+4E00,一,3,3,2,2",
        "U+4E8C,二,1,1,1,2",
    ]
    (spread,) = board(tmp_path).Histograms("val/recall_of_classes")
    assert (spread.histogram_value.num, spread.histogram_value.max) == (2, 1)


def test_options_are_a_table_in_tensorboard_and_stay_words(tmp_path: Path) -> None:
    with open_log(tmp_path, batch_size=64, teachers=["a|b", "`c`"], init=None):
        pass
    (text,) = board(tmp_path).Tensors("options/text_summary")
    assert make_ndarray(text.tensor_proto)[0].decode().splitlines() == [
        "| option | value |",
        "|---|---|",
        "| `batch_size` | `64` |",
        "| `teachers` | `['a\\|b', ''c'']` |",
        "| `init` | `None` |",
    ]
