"""The most frequent confusions as cards, which the sheet and the page show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kkanji.evaluation.confusion import Confusion
from kkanji.evaluation.predictions import Predictions
from kkanji.variants import family_numbers
from shards.format.layout import IMAGE_SIZE

ImagesOf = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One class predicted as another, with characters and images in place of numbers."""

    rank: int
    true: str
    predicted: str
    true_training: int
    """Training originals of the true class."""
    predicted_training: int
    confusion: Confusion
    images: NDArray[np.uint8]
    """Misclassified images [1 to 3, 64, 64], the most confident mistakes first."""
    probabilities: tuple[float, ...]
    """Probability of the wrong prediction, for each image."""
    variants: bool
    """Whether the two classes are forms of one character (see kkanji/variants.py)."""

    @property
    def fraction(self) -> float:
        """Of the true class's images, the fraction confused in this way."""
        return self.confusion.count / self.confusion.true_images


def make_cards(
    confusions: Sequence[Confusion],
    predictions: Predictions,
    *,
    characters: Sequence[str],
    training_counts: NDArray[np.int64],
    images_of: ImagesOf,
) -> tuple[Card, ...]:
    """A card for each confusion, in their order; the images are fetched in one call."""
    if not confusions:
        return ()
    rows = [row for confusion in confusions for row in confusion.examples]
    images = _fetch(images_of, predictions.position[rows].cpu().numpy())
    probability = dict(zip(rows, predictions.probability[rows, 0].tolist(), strict=True))
    families = family_numbers(characters)
    ends = np.cumsum([len(confusion.examples) for confusion in confusions])
    return tuple(
        Card(
            rank=rank,
            true=characters[confusion.true],
            predicted=characters[confusion.predicted],
            true_training=int(training_counts[confusion.true]),
            predicted_training=int(training_counts[confusion.predicted]),
            confusion=confusion,
            images=images[end - len(confusion.examples) : end],
            probabilities=tuple(probability[row] for row in confusion.examples),
            variants=bool(families[confusion.true] == families[confusion.predicted]),
        )
        for rank, (confusion, end) in enumerate(zip(confusions, ends, strict=True), start=1)
    )


def _fetch(images_of: ImagesOf, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    images = images_of(positions)
    expected = (len(positions), IMAGE_SIZE, IMAGE_SIZE)
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(f"images_of gave {images.dtype} of shape {images.shape}, expected uint8 of shape {expected}")
    return images
