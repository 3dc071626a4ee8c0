"""Recipes: the legacy project's transforms are SciPy's, done otherwise, and have its distributions."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kkanji.augment.policy import Policy
from tools.build import offline_augment as recipes
from tools.build.offline_augment import by_policy, describe, find_recipe, fingerprint, legacy

ndimage: Any = pytest.importorskip("scipy.ndimage")
IMAGES = 400
CENTRE = slice(24, 40)
LEVEL = 4  # gray levels a pixel of the ramps


class Given:
    """A generator that hands out what was drawn before."""

    def __init__(self, *values: Any) -> None:
        self._values = list(values)

    def uniform(self, *_: object) -> Any:
        return self._values.pop(0)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.float32]:
    """Smooth, as scanned strokes are: random levels, blurred."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((64, 64)), 2)
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth), np.float32)


def test_the_elastic_transform_is_scipys(picture: NDArray[np.float32]) -> None:
    drawn = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64))
    x, y = (1000 * ndimage.gaussian_filter(noise, 30, mode="constant", cval=0) for noise in drawn)
    rows, columns = np.indices((64, 64))
    expected = ndimage.map_coordinates(picture, (rows + y, columns + x), order=1, mode="reflect")
    assert np.abs(x).max() > 1
    found = recipes.elastic(picture, Given(*drawn))  # type: ignore[arg-type]
    assert np.abs(found - expected).max() < 0.01


@pytest.mark.parametrize(("degrees", "scale", "shift"), [(12.0, 0.93, (3.3, -4.1)), (-15.0, 1.1, (0.0, 5.0))])
def test_the_affine_transform_turns_about_the_corner(
    picture: NDArray[np.float32], degrees: float, scale: float, shift: tuple[float, float]
) -> None:
    cosine, sine = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    back = np.linalg.inv(np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]], [0, 0, 1]]))
    rows, columns = np.indices((64, 64))
    x, y, _ = np.tensordot(back, np.stack([columns, rows, np.ones((64, 64))]), 1)
    expected = ndimage.map_coordinates(picture, (y, x), order=1, mode="mirror")
    found = recipes.affine(picture, Given(degrees, scale, *shift))  # type: ignore[arg-type]
    assert np.abs(found - expected).max() < 0.01


def test_the_original_moves_turns_and_bends_as_its_figures_say() -> None:
    """Measured on ramps, whose levels tell where each pixel came from. The expected spreads are those of its parts."""
    ramp = np.tile(LEVEL * np.arange(64, dtype=np.uint8), (64, 1))
    across, down = (legacy(np.repeat(image[None], IMAGES, axis=0), 0, np.arange(IMAGES)) for image in (ramp, ramp.T))
    places = np.stack([down, across])[:, :, CENTRE, CENTRE] / LEVEL  # [2, n, 16, 16]: row and column it came from
    came_from = places.mean(axis=(2, 3)) - 31.5
    lever = 31.5 * np.deg2rad(15) / np.sqrt(3)  # of a turn about the corner, at the centre
    zoom, shift = 31.5 * 0.1 / np.sqrt(3), 5 / np.sqrt(3)
    cut = (recipes.smoothing()[32] ** 2).sum() * 1000 / np.sqrt(3)  # of smoothed noise, uniform in -1..1
    expected = np.sqrt(lever**2 + zoom**2 + shift**2 + cut**2)
    assert np.allclose(came_from.std(axis=1), expected, rtol=0.12)
    assert np.abs(came_from.mean(axis=1)).max() < 4 * expected / np.sqrt(IMAGES)
    turns = np.polynomial.polynomial.polyfit(np.arange(16), places[0].mean(axis=1).T, 1)[1]  # rows it climbs a column
    bend = cut / recipes.ELASTIC_SIGMA / np.sqrt(2)  # slope of noise smoothed by a Gaussian
    assert np.isclose(turns.std(), np.hypot(np.deg2rad(15) / np.sqrt(3), bend), rtol=0.15)


def test_the_original_has_noise_of_its_level_and_truncates() -> None:
    gray = np.full((100, 64, 64), 128, np.uint8)
    found = legacy(gray, 0, np.arange(100)).astype(np.float64)
    assert np.isclose(found.std(), 0.05 * 255, rtol=0.02)
    assert np.isclose(found.mean(), 127.5, atol=0.2)


def test_an_image_depends_on_seed_and_number_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64), np.uint8)
    for recipe in (find_recipe("legacy", 1), find_recipe("policy", 1)):
        together = recipe(images, 5, np.arange(6))
        assert np.array_equal(together[2:4], recipe(images[2:4], 5, np.arange(2, 4)))
        assert not np.array_equal(together[0], recipe(images[:1], 6, np.arange(1))[0])
        assert fingerprint(recipe) == fingerprint(recipe)


def test_strength_is_of_the_policy_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64), np.uint8)
    assert np.array_equal(find_recipe("policy", 0)(images, 0, np.arange(4)), images)
    half = find_recipe("policy", 0.5)(images, 0, np.arange(4))
    assert np.array_equal(half, by_policy(Policy().scaled(0.5), images, 0, np.arange(4)))
    assert describe("policy", 0.5)["policy"]["rotate_degrees"] == Policy().rotate_degrees / 2
    assert describe("legacy", 0.5) == {"recipe": "legacy"}
