"""Training images as scans look after their preparation."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kkanji.augment import appearance
from kkanji.augment.appearance import soil

COUNT = 300


@pytest.fixture(scope="module")
def images() -> Tensor:
    """White crosses with unequal arms on black, uint8 [COUNT, 1, 64, 64]."""
    drawn = torch.zeros(COUNT, 1, 64, 64, dtype=torch.uint8)
    drawn[:, :, 4:60, 28:34] = drawn[:, :, 20:26, 8:56] = 255
    return drawn


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the effects of these names happen to every image, and no others."""
    for name in ("NEIGHBOURS", "LINES", "BLEEDING", "BLURRED", "HARD", "SHADED"):
        monkeypatch.setattr(appearance, name, 1.0 if name in names else 0.0)
    for name in ("CROP", "CUT", "SQUEEZED", "OFF_CENTRE", "TURN"):
        monkeypatch.setattr(appearance, name, 1.0 if name in names else 0.0)


def spans(images: Tensor, axis: int) -> Tensor:
    """Pixels from the first to the last with ink along an axis [B]."""
    inked = (images[:, 0] > 128).any(dim=axis).int()
    return 64 - inked.argmax(dim=1) - inked.flip(1).argmax(dim=1)


def test_none_are_changed_by_default(images: Tensor) -> None:
    assert torch.equal(soil(images, 0.0, seed=0, first=0), images)


def test_the_input_is_left_alone(images: Tensor) -> None:
    before = images.clone()
    soil(images, 1.0, seed=0, first=0)
    assert torch.equal(images, before)


def test_a_fraction_is_changed(images: Tensor) -> None:
    changed = (soil(images, 0.4, seed=0, first=0) != images).flatten(1).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.4, abs=0.1)


def test_an_image_depends_on_its_position_alone(images: Tensor) -> None:
    """Not on its batch: ranks, micro-batches and resumed runs see the same."""
    together = soil(images, 0.7, seed=3, first=100)
    apart = [soil(images[at : at + 70], 0.7, seed=3, first=100 + at) for at in range(0, COUNT, 70)]
    assert torch.equal(torch.cat(apart), together)


def test_seeds_and_positions_differ(images: Tensor) -> None:
    found = [soil(images, 1.0, seed=seed, first=first) for seed, first in ((0, 0), (1, 0), (0, COUNT))]
    assert all(
        ((one != other).flatten(1).any(dim=1)).all() for one, other in ((found[0], found[1]), (found[0], found[2]))
    )


def test_its_numbers_are_not_those_of_the_policy(images: Tensor) -> None:
    """The chosen images would otherwise be turned alike by both."""
    from kkanji.augment.policy import Policy, sample_rows

    rows = sample_rows(Policy(), 0, np.arange(COUNT))
    changed = (soil(images, 0.5, seed=0, first=0) != images).flatten(1).any(dim=1).numpy()
    assert abs(np.corrcoef(rows[:, 2], changed)[0, 1]) < 0.15


def test_windows_are_larger_and_smaller_than_the_character(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    assert torch.equal(soil(images, 1.0, seed=0, first=0), images)
    monkeypatch.setattr(appearance, "CROP", 0.35)
    heights = spans(soil(images, 1.0, seed=0, first=0), 2)
    assert heights.min() < 44 and heights.max() >= 55 and heights.max() <= 57
    monkeypatch.setattr(appearance, "CROP", 0.0)
    monkeypatch.setattr(appearance, "CUT", 0.1)
    assert spans(soil(images, 1.0, seed=0, first=0), 2).max() > 60


def test_squeezing_changes_one_side(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "SQUEEZED")
    found = soil(images, 1.0, seed=0, first=0)
    heights, widths = spans(found, 2), spans(found, 1)
    assert ((heights >= 55) | (widths >= 47)).all()
    assert heights.min() < 32 and widths.min() < 28


def test_neighbours_are_seen_through_a_larger_window(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "NEIGHBOURS")
    monkeypatch.setattr(appearance, "CROP", 0.35)
    edges = soil(images, 1.0, seed=0, first=0)[:, 0, (0, 63), :] > 128
    assert edges.flatten(1).any(dim=1).float().mean() > 0.1


@pytest.mark.parametrize(("name", "least"), [("LINES", 0.9), ("SHADED", 0.6), ("BLURRED", 0.0), ("BLEEDING", 0.0)])
def test_what_is_added_to_paper_alone(name: str, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and shadows are there without a character; blur and the page's other side come from ink."""
    only(monkeypatch, name)
    paper = torch.zeros(COUNT, 1, 64, 64, dtype=torch.uint8)
    inked = (soil(paper, 1.0, seed=0, first=0) > 0).flatten(1).any(dim=1).float().mean()
    assert inked >= least if least else inked == 0


def test_blur_keeps_the_ink_and_lowers_its_peaks(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "BLURRED")
    found = soil(images, 1.0, seed=0, first=0).float()
    assert found.mean() == pytest.approx(float(images.float().mean()), rel=0.03)
    assert found.std() < images.float().std()


def test_hardening_gives_back_edges_that_were_blurred(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    grays = []
    for names in (("BLURRED",), ("BLURRED", "HARD")):
        only(monkeypatch, *names)
        found = soil(images, 1.0, seed=0, first=0)
        grays.append(((found > 32) & (found < 224)).float().mean())
    assert grays[1] < 0.8 * grays[0]


def test_the_other_side_is_mirrored_and_weaker(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "BLEEDING")
    added = soil(images, 1.0, seed=0, first=0).int() - images.int()
    assert (added >= 0).all() and added.max() <= 128
    assert (added.amax(dim=0)[0, 10, 30:36] > 0).tolist() == [False] * 4 + [
        True
    ] * 2  # the upright, mirrored about 31.5
