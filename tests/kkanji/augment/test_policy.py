from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kkanji.augment.numba_kernels import GRID_START, ROW
from kkanji.augment.policy import Policy, apply, sample_rows

COUNT = 400
STILL = Policy(**{field.name: 0.0 for field in fields(Policy)})


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Soft blobs, [COUNT, 64, 64]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    centres, widths = rng.uniform(16, 48, (COUNT, 2, 1, 1)), rng.uniform(4, 12, (COUNT, 1, 1))
    distance = (x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2
    blobs: NDArray[np.uint8] = (255 * np.exp(-distance / (2 * widths**2))).astype(np.uint8)
    return blobs


def rows_of(policy: Policy, seed: int = 0, count: int = COUNT) -> NDArray[np.float32]:
    return sample_rows(policy, seed, np.arange(count))


def only(**strengths: float) -> Policy:
    return replace(STILL, **strengths)


def test_no_strength_changes_nothing(images: NDArray[np.uint8]) -> None:
    assert np.array_equal(apply(images, rows_of(STILL)), images)


def test_the_input_is_left_alone(images: NDArray[np.uint8]) -> None:
    before = images.copy()
    apply(images, rows_of(Policy()))
    assert np.array_equal(images, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("column", [*range(11), GRID_START, ROW - 1])
def test_senseless_rows_read_no_other_memory(images: NDArray[np.uint8], column: int, value: float) -> None:
    """As compiled code would, and crash: what comes out does not matter."""
    rows = rows_of(STILL, count=20)
    rows[:, column] = value
    assert apply(images[:20], rows).shape == (20, 64, 64)


def test_a_row_depends_on_its_position_alone(images: NDArray[np.uint8]) -> None:
    """Not on its batch: ranks, micro-batches and resumed runs augment alike."""
    rows = rows_of(Policy(), seed=7)
    positions = np.array([3, 399, 17])
    assert np.array_equal(sample_rows(Policy(), 7, positions), rows[positions])
    assert np.array_equal(apply(images[positions], rows[positions]), apply(images, rows)[positions])


def test_seeds_and_positions_differ() -> None:
    rows = rows_of(Policy())
    assert len(np.unique(rows, axis=0)) == COUNT
    assert not np.array_equal(rows, rows_of(Policy(), seed=1))


def test_parameters_have_the_stated_distribution() -> None:
    policy = Policy()
    rows = rows_of(policy, count=100_000)
    elastic = rows[:, GRID_START:]
    assert elastic.std() == pytest.approx(policy.elastic_px, rel=0.01)
    assert abs(elastic.mean()) < 0.01
    assert rows[:, 6].max() == pytest.approx(policy.noise_levels, rel=0.01)
    assert rows[:, 6].mean() == pytest.approx(policy.noise_levels / 2, rel=0.02)
    assert np.abs(rows[:, [2, 5]]).max() == pytest.approx(policy.shift_px, rel=0.01)
    assert (rows[:, 9] > rows[:, 7]).mean() == pytest.approx(policy.erase_probability, rel=0.03)
    determinants = rows[:, 0] * rows[:, 4] - rows[:, 1] * rows[:, 3]
    assert np.abs(np.log(determinants)).max() <= 2 * policy.scale + 1e-5


def test_columns_are_independent() -> None:
    rows = rows_of(Policy(), count=50_000)
    varying = rows[:, [0, 2, 5, 6, 11, *range(GRID_START, ROW)]]
    correlation = np.corrcoef(varying.T) - np.eye(varying.shape[1])
    assert np.abs(correlation).max() < 0.03


def test_noise_level_in_pixels() -> None:
    gray = np.full((200, 64, 64), 128, np.uint8)
    rows = rows_of(STILL, count=200)
    rows[:, 6] = 10
    noise = apply(gray, rows).astype(float) - 128
    assert noise.std() == pytest.approx(10, rel=0.02)
    assert abs(noise.mean()) < 0.1
    neighbours = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.01


def test_pixels_move_as_far_as_the_policy_says() -> None:
    """Measured in images whose gray tells where a pixel came from."""
    ramp = np.broadcast_to(4 * np.arange(64, dtype=np.uint8), (4000, 64, 64))
    moved = apply(ramp, rows_of(only(elastic_px=2.0), count=4000)) / 4 - np.arange(64)
    assert abs(moved[:, 16:48, 16:48].mean()) < 0.05
    t = np.arange(64) / 15.75 % 1
    of_axis = (1 - t) ** 2 + t**2  # variance of the mean of two nodes, weighted
    expected = 2.0 * np.sqrt(of_axis[:, None] * of_axis)
    assert moved.std(axis=0)[16:48, 16:48] == pytest.approx(expected[16:48, 16:48], rel=0.06)


def test_as_many_pixels_are_erased_as_the_policy_says() -> None:
    white = np.full((8000, 64, 64), 255, np.uint8)
    erased = apply(white, rows_of(only(erase_probability=0.3, erase_px=24), count=8000)) == 0
    assert erased[:, 12:52, 12:52].mean() == pytest.approx(0.3 * (12 / 64) ** 2, rel=0.05)
    assert erased.any(axis=(1, 2)).mean() == pytest.approx(0.3, rel=0.1)


def test_erasing_blackens_exactly_the_box() -> None:
    white = np.full((1, 64, 64), 255, np.uint8)
    rows = rows_of(STILL, count=1)
    rows[0, 7:11] = 10.5, 20.0, 30.0, 25.0
    erased = apply(white, rows)[0] == 0
    assert erased[20:25, 11:30].all()
    assert erased.sum() == 5 * 19


def test_a_shift_is_a_shift(images: NDArray[np.uint8]) -> None:
    rows = rows_of(STILL)
    rows[:, 2], rows[:, 5] = 2, -3
    shifted = apply(images, rows)
    assert np.array_equal(shifted[:, 3:, :62], images[:, :61, 2:])
    assert not shifted[:, :3].any()


@pytest.mark.parametrize("name", [field.name for field in fields(Policy)])
@pytest.mark.parametrize("value", [-0.1, 64.0, float("nan")])
def test_senseless_policies_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Policy(**{name: value})
