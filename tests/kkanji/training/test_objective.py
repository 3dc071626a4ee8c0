"""What a run is trained towards: labels, mixtures, teachers."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from kkanji.checkpoint import files as checkpoint
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap
from kkanji.models import create_model
from kkanji.training.objective import CrossEntropy, Distillation, Mixing, Mixup, Teachers, class_weights
from shards import InputError
from tests.kkanji.step.counting import counted

NETWORK = "kkanji_efficientnet_fused_s"
OWN = ClassMap.of([0x4E00, 0x4E8C, 0x4E09])
CPU = torch.device("cpu")
ALL = torch.ones(3, dtype=torch.int64)


def save(folder: Path, points: list[int], seed: int) -> Path:
    torch.manual_seed(seed)
    classes = ClassMap.of(points)
    model = create_model(NETWORK, len(classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {"config": {"model": NETWORK, "head": "linear"}}
    return checkpoint.save(folder, 1, model=model, optimizer=optimizer, state=state, classes=classes, best=True)


def test_the_mean_of_what_they_make_of_the_runs_characters(tmp_path: Path) -> None:
    """Whatever their own numbers for them, and whatever else they know."""
    paths = [save(tmp_path / "a", list(OWN.code_points), 0), save(tmp_path / "b", [0x3042, *OWN.code_points], 1)]
    images = torch.randn(5, 1, 64, 64)
    found = Teachers(paths, OWN, ALL, CPU)(images)
    with torch.inference_mode():
        first, second = (load_trained(path).eval()(images) for path in paths)
    expected = (first.softmax(1) + second[:, 1:].softmax(1)) / 2
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(5))
    assert not found.requires_grad


def test_a_character_without_images_need_not_be_known(tmp_path: Path) -> None:
    path = save(tmp_path, [0x4E00, 0x4E8C], 0)
    unknown = OWN.ids[0x4E09]
    counts = ALL.clone()
    counts[unknown] = 0
    found = Teachers([path], OWN, counts, CPU)(torch.randn(2, 1, 64, 64))
    assert torch.equal(found[:, unknown], torch.zeros(2))
    with pytest.raises(InputError, match=r"--teachers .*: does not know 1 of the set's characters: U\+4E09"):
        Teachers([path], OWN, ALL, CPU)


def test_an_images_loss_counts_by_its_class() -> None:
    """Also where two images are mixed, and where a part of the target is spread over all classes."""
    logits, labels, weights = torch.randn(4, 3), torch.tensor([0, 2, 2, 1]), torch.tensor([0.5, 1.0, 2.0])
    own, other = (
        cross_entropy(logits, each, label_smoothing=0.1, reduction="none") for each in (labels, labels.flip(0))
    )
    weighted = CrossEntropy(smoothing=0.1, weights=weights)
    assert torch.allclose(weighted(logits, labels, logits, Mixing()), own @ weights[labels])
    mixed = 0.3 * (own @ weights[labels]) + 0.7 * (other @ weights[labels.flip(0)])
    assert torch.allclose(weighted(logits, labels, logits, Mixing(fraction=0.3)), mixed)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_weights_of_classes_follow_their_images_and_are_one_in_the_mean(exponent: float) -> None:
    samples = torch.tensor([100, 4, 0, 1])
    weights = class_weights(samples, exponent)
    if not exponent:
        assert weights is None
        return
    assert weights is not None and weights[2] == 0
    assert float(weights @ samples.float() / samples.sum()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(25**exponent)


def test_without_mixing_nothing_changes() -> None:
    mixup = Mixup(alpha=0.0, stages=3)
    mixing = mixup.sample()
    images, labels, logits = torch.randn(4, 1, 8, 8), torch.arange(4), torch.randn(4, 5)
    assert mixing.of(images) is images and mixup.fractions(mixing, CPU) is None
    expected = cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
    assert CrossEntropy(smoothing=0.1)(logits, labels, images, mixing) == expected


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_targets_are_mixed_by_the_fraction(alpha: float) -> None:
    torch.manual_seed(3)
    images, labels, logits = torch.randn(6, 1, 8, 8), torch.arange(6), torch.randn(6, 7)
    mixing = Mixup(alpha=alpha).sample()
    fraction = mixing.fraction
    assert fraction is not None and 0 <= fraction <= 1
    targets = fraction * one_hot(labels, 7) + (1 - fraction) * one_hot(labels.flip(0), 7)
    assert float(CrossEntropy()(logits, labels, images, mixing)) == pytest.approx(
        float(cross_entropy(logits, targets, reduction="sum")), rel=1e-5
    )


@pytest.mark.parametrize("stage", [0, 1])
def test_distillation_targets_are_mixed_as_the_images_are(stage: int) -> None:
    logits, labels, pixels = torch.randn(4, 5), torch.arange(4), torch.randn(4, 1, 8, 8)
    probabilities = torch.randn(4, 5).softmax(1)
    objective = Distillation(labels=CrossEntropy(), teachers=lambda _: probabilities, weight=0.3, autocast=nullcontext)
    mixing = Mixing(fraction=0.7, stage=stage)
    for how, target in ((mixing, 0.7 * probabilities + 0.3 * probabilities.flip(0)), (Mixing(), probabilities)):
        taught = -(target * logits.log_softmax(1)).sum()
        expected = 0.7 * CrossEntropy()(logits, labels, pixels, how) + 0.3 * taught
        assert torch.allclose(objective(logits, labels, pixels, how), expected)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_network_is_told_to_mix_by_the_fraction_at_the_stage(stage: int) -> None:
    fractions = Mixup(alpha=1.0, stages=2).fractions(Mixing(fraction=0.25, stage=stage), CPU)
    assert fractions is not None and fractions.dtype == torch.float32
    assert fractions.tolist() == [0.25 if number == stage else 1.0 for number in range(3)]


def test_a_device_is_told_without_a_copy_from_the_host() -> None:
    """Which would wait for the work before: only fills are launched, on the device of the tensor."""
    with counted() as work:
        fractions = Mixup(alpha=1.0, stages=2).fractions(Mixing(fraction=0.25, stage=1), torch.device("meta"))
    assert fractions is not None and fractions.device.type == "meta"
    assert set(work.launches) <= {"ones", "fill_"}


def test_the_fraction_and_the_stage_follow_from_the_seed() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        mixings = [Mixup(alpha=1.0, stages=3).sample() for _ in range(20)]
        drawn.append([(float(mixing.fraction or 0), mixing.stage) for mixing in mixings])
    assert drawn[0] == drawn[1] != drawn[2]
    assert {stage for _, stage in drawn[0]} == {0, 1, 2, 3}
