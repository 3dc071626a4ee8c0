"""What a run leaves in TensorBoard, read back by TensorBoard's own reader."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

from kkanji.training.run_log import THRESHOLDS, RunLog
from tests.kkanji.evaluation.synthetic import predictions_from

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
LABELS = torch.tensor([0, 1, 0, 0])  # the third is misread


def images_of(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.full((len(positions), 64, 64), 200, np.uint8)


def show(log: RunLog, probabilities: torch.Tensor) -> None:
    counts = np.array([3, 1])
    predictions = predictions_from(probabilities, LABELS)
    log.readings("val", 100, predictions, characters="一二", training_counts=counts, images_of=images_of)


def board(run: Path) -> Any:
    accumulator = EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_misread_glyphs_and_the_curve_are_in_tensorboard(tmp_path: Path) -> None:
    with RunLog(tmp_path, total_images=100, seen_images=0, enabled=True) as log:
        show(log, PROBABILITIES)
    found = board(tmp_path)
    (picture,) = found.Images("val/misread")
    with Image.open(io.BytesIO(picture.encoded_image_string)) as image:
        assert image.width > 300 and np.asarray(image).std() > 10
    (curve,) = found.Tensors("val/accepted_readings")
    true_positives, false_positives, true_negatives, false_negatives, precision, recall = make_ndarray(
        curve.tensor_proto
    )
    assert curve.step == 100 and len(precision) == THRESHOLDS
    at = [round(share * (THRESHOLDS - 1)) for share in (0.0, 0.65, 0.75, 0.85, 1.0)]
    assert precision[at].tolist() == pytest.approx([0.75, 1, 1, 1, 1])
    assert recall[at].tolist() == pytest.approx([0.75, 0.75, 0.5, 0.25, 0])
    assert (true_positives + false_negatives == 4).all() and not true_negatives.any()
    assert false_positives[at].tolist() == [1, 0, 0, 0, 0]


def test_without_a_misreading_there_is_no_picture(tmp_path: Path) -> None:
    with RunLog(tmp_path, total_images=100, seen_images=0, enabled=True) as log:
        show(log, torch.eye(2)[LABELS])
    assert board(tmp_path).Tags()["images"] == []


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", total_images=100, seen_images=0, enabled=False) as log:
        show(log, PROBABILITIES)
    assert not (tmp_path / "run").exists()
