import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kkanji.evaluation.calibration import BINS, TEMPERATURES, TemperatureScan, accept, calibrate
from tests.kkanji.evaluation.synthetic import confident, predictions_from


def test_the_error_is_the_weighted_distance() -> None:
    calibration = calibrate(confident([0.5, 0.5, 1.0, 1.0], [True, False, True, False]))
    assert calibration.error == pytest.approx(0.25)
    assert calibration.images.sum() == 4 and calibration.images[-1] == 2
    assert calibration.accuracy[-1] == 0.5 and np.isnan(calibration.accuracy[0])


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=80))
def test_bins_are_closed_above_and_hold_every_image(readings: list[tuple[float, bool]]) -> None:
    probability, right = (list(column) for column in zip(*readings, strict=True))
    calibration = calibrate(confident(probability, right))
    edges = calibration.edges
    for number in range(BINS):
        low = -1.0 if number == 0 else edges[number]
        inside = [value for value in probability if low < value <= edges[number + 1]]
        assert calibration.images[number] == pytest.approx(
            len(inside), abs=sum(value in edges for value in probability)
        )
    assert calibration.images.sum() == len(readings)
    assert 0 <= calibration.error <= 1


def test_accepting_only_sure_readings() -> None:
    rows = accept(confident([0.2, 0.6, 0.7, 0.9], [False, False, True, True]), (0.0, 0.5, 0.95))
    assert [(row.images, row.right, row.fraction, row.accuracy) for row in rows] == [
        (4, 2, 1, 0.5), (3, 2, 0.75, 2 / 3), (0, 0, 0, None),
    ]  # fmt: skip


def honest(images: int, classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is right, since the labels are drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("wrong_by", [0.5, 1.0, 2.0])
def test_the_temperature_that_was_there_is_found(wrong_by: float) -> None:
    logits, labels = honest(4000, 10)
    scan = TemperatureScan(torch.device("cpu"))
    for start in range(0, 4000, 333):  # batches of odd and even starts and sizes
        part = slice(start, start + 333)
        scan.add(logits[part] * wrong_by, labels[part], start)
    fit = scan.fit(Accelerator())
    assert fit.value == pytest.approx(wrong_by, rel=0.1)
    assert fit.images == 4000
    assert fit.calibration_error_after < 0.03
    assert fit.loss_after == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=0.01)
    if wrong_by != 1:
        assert fit.calibration_error_before > 0.1 and fit.loss_before > fit.loss_after


def test_each_half_is_measured_with_the_other_halfs_temperature() -> None:
    """Even positions want the coldest temperature, odd ones the hottest: crossed over, both lose by it."""
    logits = torch.tensor([[3.0, 0.0]]).repeat(200, 1)
    labels = torch.arange(200) % 2
    scan = TemperatureScan(torch.device("cpu"))
    scan.add(logits[:77], labels[:77], 0)
    scan.add(logits[77:], labels[77:], 77)
    fit = scan.fit(Accelerator())
    cold, hot = min(TEMPERATURES), max(TEMPERATURES)
    right = float(nn.functional.cross_entropy(logits[:1] / hot, labels[:1]))
    wrong = float(nn.functional.cross_entropy(logits[:1] / cold, labels[1:2]))
    assert fit.loss_after == pytest.approx((right + wrong) / 2)
    assert fit.loss_after > fit.loss_before


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_errors_are_those_of_the_probabilities_at_each_temperature(temperature: float) -> None:
    logits, labels = honest(2000, 5)
    scan = TemperatureScan(torch.device("cpu"), sorted({1.0, temperature}))
    scan.add(logits, labels, 0)
    expected = calibrate(predictions_from((logits / temperature).softmax(dim=1), labels)).error
    assert scan.errors(Accelerator(cpu=True))[temperature] == pytest.approx(expected, abs=1e-6)
