import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from kkanji.evaluation.confusion import lowest_recall, most_confused
from kkanji.evaluation.predictions import Predictions
from tests.kkanji.evaluation.synthetic import predictions_from

CLASSES = 7


def misread(*pairs: tuple[int, int, float]) -> Predictions:
    """Images of one class each, read as another with some probability; the true class gets the rest."""
    probability = torch.zeros(len(pairs), CLASSES)
    for row, (true, predicted, value) in enumerate(pairs):
        probability[row, true] = 1 - value
        probability[row, predicted] = value
    return predictions_from(probability, torch.tensor([true for true, _, _ in pairs]))


def test_pairs_come_by_frequency_then_confidence() -> None:
    predictions = misread((1, 2, 0.9), (3, 4, 0.6), (1, 1, 1.0), (3, 4, 0.8), (4, 3, 0.7), (5, 6, 0.95))
    found = most_confused(predictions, limit=3, examples=1)
    assert [(pair.true, pair.predicted, pair.count) for pair in found] == [(3, 4, 2), (5, 6, 1), (1, 2, 1)]
    first = found[0]
    assert (first.true_images, first.reverse_count, first.examples) == (2, 1, (3,))
    assert first.probability == pytest.approx(0.7) and first.label_probability == pytest.approx(0.3)


def test_without_a_mistake_nothing_is_confused() -> None:
    predictions = misread((0, 0, 1.0), (1, 1, 1.0))
    assert most_confused(predictions, limit=9, examples=1) == ()
    assert lowest_recall(predictions, classes=CLASSES, limit=9, least_images=1) == ()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_the_counts_are_those_of_the_whole_matrix(pairs: list[tuple[int, int]]) -> None:
    predictions = misread(*((true, predicted, 0.9) for true, predicted in pairs))
    table = confusion_matrix(*zip(*pairs, strict=True), labels=range(CLASSES))
    found = most_confused(predictions, limit=CLASSES**2, examples=99)
    assert len(found) == sum(table[a, b] > 0 for a in range(CLASSES) for b in range(CLASSES) if a != b)
    for pair in found:
        assert pair.count == table[pair.true, pair.predicted] == len(pair.examples)
        assert (pair.true_images, pair.reverse_count) == (table[pair.true].sum(), table[pair.predicted, pair.true])
    counts = [pair.count for pair in found]
    assert counts == sorted(counts, reverse=True)


def test_recall_leaves_out_classes_with_few_images_and_those_without_mistakes() -> None:
    twice = ((0, 1, 0.9), (0, 0, 1.0))  # half right
    predictions = misread(*twice, (2, 3, 0.9), (2, 4, 0.9), (2, 4, 0.9), (3, 3, 1.0), (3, 3, 1.0), (5, 6, 0.9))
    weakest = lowest_recall(predictions, classes=CLASSES, limit=9, least_images=2)
    assert [(entry.label, entry.images, entry.right, entry.rival, entry.rival_count) for entry in weakest] == [
        (2, 3, 0, 4, 2), (0, 2, 1, 1, 1),
    ]  # fmt: skip
    assert len(lowest_recall(predictions, classes=CLASSES, limit=1, least_images=1)) == 1
