from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from kkanji.metrics import BINS, Predictions, summarise


def made_up(seed: int, images: int, classes: int) -> tuple[Predictions, np.ndarray]:
    """Predictions from random scores that favour the label, and the probabilities [N, C] behind them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    scores = rng.normal(size=(images, classes))
    scores[np.arange(images), labels] += 1
    probability = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    top = np.argsort(-probability, axis=1)[:, :5]
    predicted = np.full((images, 5), -1, np.int32)
    predicted[:, : top.shape[1]] = top
    values = np.zeros((images, 5), np.float32)
    values[:, : top.shape[1]] = np.take_along_axis(probability, top, axis=1)
    own = probability[np.arange(images), labels].astype(np.float32)
    made = Predictions(labels=labels.astype(np.int32), predicted=predicted, probability=values, label_probability=own)
    return made, probability


@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(2, 40))
def test_averages_equal_scikit_learn(seed: int, images: int, classes: int) -> None:
    predictions, probability = made_up(seed, images, classes)
    summary = summarise(predictions, np.ones(classes, np.int64))
    labels, first = predictions.labels, predictions.predicted[:, 0]
    present = np.unique(labels)
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, first, labels=present, average=average, zero_division=0
        )
        assert summary[f"precision_{average}"] == pytest.approx(precision)
        assert summary[f"recall_{average}"] == pytest.approx(recall)
        assert summary[f"f1_{average}"] == pytest.approx(f1)
    assert summary["balanced_accuracy"] == pytest.approx(summary["recall_macro"])
    assert summary["top1"] == pytest.approx((first == labels).mean())
    if classes > 5:
        top5 = top_k_accuracy_score(labels, probability, k=5, labels=np.arange(classes))
        assert summary["top5"] == pytest.approx(top5)
    assert summary["loss"] == pytest.approx(-np.log(probability[np.arange(images), labels]).mean(), rel=1e-5)


def test_bins_divide_the_images() -> None:
    predictions, _ = made_up(0, 500, 30)
    originals = np.array([1, 2, 5, 6, 10, 11, 20, 21, 50, 51, 100, 101, 150, 151, 1000] * 2)
    bins = summarise(predictions, originals)["bins"]
    names = ["1", "2-5", "6-10", "11-20", "21-50", "51-100", "101-150", "151+"]
    assert [entry["training_images"] for entry in bins] == names
    assert sum(entry["images"] for entry in bins) == 500
    assert sum(entry["classes"] for entry in bins) == 30
    pooled = sum(entry["images"] * entry["top1"] for entry in bins) / 500
    assert pooled == pytest.approx(summarise(predictions, originals)["top1"])


def test_an_empty_bin_has_no_figure() -> None:
    predictions, _ = made_up(0, 10, 3)
    bins = summarise(predictions, np.full(3, 7))["bins"]
    assert [entry["top1"] is None for entry in bins] == [low != 6 for low, _ in BINS]


def test_predictions_file_holds_what_was_said(tmp_path: Path) -> None:
    predictions, _ = made_up(0, 20, 3)
    predictions.save(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        assert np.array_equal(file["position"], np.arange(20))
        assert np.array_equal(file["predicted"], predictions.predicted)
        assert (file["predicted"][:, 3:] == -1).all()
