"""Images made to be no character, and the score that learns from them."""

import numpy as np
import pytest
import torch

from kkanji.neighbours.made import KINDS, NOTHING, OTHER, SEVERAL, make
from kkanji.neighbours.unknown import FEATURES, REASONS, Unknown, describe, fit
from kkanji.neighbours.vote import Reading


def strokes(count: int) -> np.ndarray:
    images = np.zeros((count, 64, 64), np.uint8)
    images[:, 20:24, 8:56] = 255
    images[:, 8:56, 30:34] = 255
    return images


@pytest.mark.parametrize("kind", KINDS)
def test_made_images_differ_repeat_by_their_seed_and_are_not_blank(kind: str) -> None:
    images = make(strokes(3), kind, 4, seed=5)
    assert images.shape == (4, 64, 64) and images.dtype == np.uint8
    assert all(image.max() > image.min() for image in images)
    assert len({image.tobytes() for image in images}) > 1 or KINDS[kind][0] == SEVERAL
    assert (make(strokes(3), kind, 4, seed=5) == images).all()


def test_characters_in_a_grid_are_reduced_whole() -> None:
    two = make(strokes(1), "two characters", 1, seed=0)[0]
    assert two[:16].max() == two[48:].max() == 0 and two[16:48, :32].any() and two[16:48, 32:].any()


def readings(cosine: float, count: int, seed: int) -> Reading:
    noise = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.05
    cosines = (cosine + noise)[:, None].repeat(1, 10)
    return Reading(torch.full((count, 5), 0.2).log(), cosines, *(cosines[:, 0] * each for each in (10, 7, 1)))


def described(cosine: float, kind: str | None, count: int, seed: int) -> torch.Tensor:
    images = strokes(count) if kind is None else make(strokes(2), kind, count, seed=seed)
    return describe(readings(cosine, count, seed), images)


def test_the_score_tells_characters_from_others_and_says_why() -> None:
    kinds = {NOTHING: "noise", SEVERAL: "a page", OTHER: "Latin"}
    judge = fit(described(0.9, None, 60, 0), {reason: described(0.5, kind, 60, 1) for reason, kind in kinds.items()})
    characters = described(0.9, None, 40, 2)
    assert float((judge.scores(characters) >= judge.threshold).float().mean()) <= 0.1
    for reason, kind in kinds.items():
        others = described(0.5, kind, 40, 3)
        assert float(judge.scores(others).min()) > 0.5
        assert judge.reasons(others).count(reason) >= 36
    assert judge.reasons(characters[:1]) == [None]


def test_a_score_that_no_fit_made_is_refused() -> None:
    good = [[0.0] * (FEATURES + 1)] * (len(REASONS) + 1)
    assert Unknown(weights=good, threshold=0.5).scores(torch.zeros(1, FEATURES)).tolist() == [0.75]
    for weights, threshold in ((good[1:], 0.5), ([[float("nan")] * (FEATURES + 1)] * 4, 0.5), (good, 1.5)):
        with pytest.raises(ValueError, match="unknown: "):
            Unknown(weights=weights, threshold=threshold)
