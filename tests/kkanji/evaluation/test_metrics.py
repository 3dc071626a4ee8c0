import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support, top_k_accuracy_score

from kkanji.evaluation.metrics import BINS, interval, summarise
from kkanji.evaluation.predictions import Predictions
from tests.kkanji.evaluation.synthetic import predictions_from

MANY = np.array([1, 2, 5, 6, 10, 11, 20, 21, 50, 51, 100, 101, 150, 151, 1000] * 2)


def unrelated(classes: int) -> str:
    """Characters of which no two are forms of one."""
    return "".join(chr(0xE000 + number) for number in range(classes))


def made_up(seed: int, images: int, classes: int) -> tuple[Predictions, NDArray[np.float64]]:
    """Predictions from random scores that favour the label, and the probabilities [N, C] behind them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    scores = rng.normal(size=(images, classes))
    scores[np.arange(images), labels] += 1
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return predictions_from(torch.from_numpy(probability), torch.from_numpy(labels)), probability


@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(2, 40))
def test_averages_equal_scikit_learn(seed: int, images: int, classes: int) -> None:
    predictions, probability = made_up(seed, images, classes)
    summary = summarise(predictions, np.ones(classes, np.int64), unrelated(classes))
    labels, first = predictions.label.numpy(), predictions.predicted[:, 0].numpy()
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(labels, first, average=average, zero_division=0)
        assert summary[f"precision_{average}"] == pytest.approx(precision)
        assert summary[f"recall_{average}"] == pytest.approx(recall)
        assert summary[f"f1_{average}"] == pytest.approx(f1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted only, or alone
        assert summary["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, first))
    assert summary["top1"] == pytest.approx((first == labels).mean())
    if classes > 5:
        top5 = top_k_accuracy_score(labels, probability, k=5, labels=np.arange(classes))
        assert summary["top5"] == pytest.approx(top5)
    assert summary["loss"] == pytest.approx(-np.log(probability[np.arange(images), labels]).mean(), rel=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 300))
def test_the_bins_divide_the_images(seed: int, images: int) -> None:
    predictions, _ = made_up(seed, images, len(MANY))
    summary = summarise(predictions, MANY, unrelated(len(MANY)))
    bins = summary["bins"]
    assert [entry["training_images"] for entry in bins] == [
        "1", "2-5", "6-10", "11-20", "21-50", "51-100", "101-150", "151+",
    ]  # fmt: skip
    assert sum(entry["images"] for entry in bins) == images
    assert sum(entry["classes"] for entry in bins) == summary["evaluated_classes"]
    for measure in ("top1", "top5", "loss"):
        pooled = sum(entry["images"] * entry[measure] for entry in bins if entry["images"]) / images
        assert pooled == pytest.approx(summary[measure])


def test_an_empty_bin_has_no_figure() -> None:
    predictions, _ = made_up(0, 10, 3)
    bins = summarise(predictions, np.full(3, 7), unrelated(3))["bins"]
    assert [entry["top1"] is None for entry in bins] == [low != 6 for low, _ in BINS]


def test_classes_without_training_images_have_a_bin_of_their_own() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    bins = summarise(predictions_from(torch.eye(3)[[0, 0, 1, 1]], labels), np.array([0, 4, 9]), unrelated(3))["bins"]
    assert [(entry["training_images"], entry["images"], entry["top1"]) for entry in bins[:4]] == [
        ("0", 2, 1.0), ("1", 0, None), ("2-5", 1, 1.0), ("6-10", 1, 0.0),
    ]  # fmt: skip


def test_a_class_that_is_only_predicted_counts_in_macro_averages_but_not_in_balanced_accuracy() -> None:
    """Class 3 has no image, and one of class 2 is taken for it: two of four classes are right, or of three."""
    readings = torch.eye(4)[[0, 0, 1, 3]]
    summary = summarise(predictions_from(readings, torch.tensor([0, 0, 1, 2])), np.ones(4, np.int64), unrelated(4))
    assert summary["evaluated_classes"] == 3
    assert summary["recall_macro"] == summary["precision_macro"] == summary["f1_macro"] == 0.5
    assert summary["balanced_accuracy"] == pytest.approx(2 / 3)


def test_another_form_of_the_character_is_right_by_family() -> None:
    """来 taken for 來 is right by family, taken for 天 it is not; a form that the model lacks changes nothing."""
    predictions = predictions_from(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, 0, 0, 2]))
    summary = summarise(predictions, np.array([3, 3, 3]), "来來天")
    assert (summary["top1"], summary["top1_family"]) == (0.5, 0.75)
    assert [entry["top1_family"] for entry in summary["bins"] if entry["images"]] == [0.75]


@pytest.mark.parametrize(
    ("share", "images", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (0, 10, 0, 0.2775), (1, 10, 0.7225, 1)]
)
def test_the_interval_is_wilsons(share: float, images: int, low: float, high: float) -> None:
    assert interval(share, images) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.gpu
def test_a_gpu_counts_as_the_cpu_does() -> None:
    predictions, _ = made_up(0, 5000, len(MANY))
    moved = Predictions(**{name: getattr(predictions, name).cuda() for name in Predictions.__slots__})
    here, there = summarise(predictions, MANY, unrelated(len(MANY))), summarise(moved, MANY, unrelated(len(MANY)))
    assert there.pop("loss") == pytest.approx(here.pop("loss"))
    losses = [[entry.pop("loss") for entry in summary["bins"]] for summary in (here, there)]
    assert losses[0] == pytest.approx(losses[1])
    assert there == here
