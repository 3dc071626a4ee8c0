import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from kkanji.training.mixup import Mixing, sample_mixing

CPU = torch.device("cpu")


def test_without_mixing_nothing_changes() -> None:
    mixing = sample_mixing(0.0, 3, CPU)
    images, labels, logits = torch.randn(4, 1, 8, 8), torch.arange(4), torch.randn(4, 5)
    assert mixing.of_images(images) is images
    expected = cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
    assert mixing.summed_loss(logits, labels, 0.1) == expected


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_images_and_targets_are_mixed_by_one_share(alpha: float) -> None:
    torch.manual_seed(3)
    images, labels, logits = torch.randn(6, 1, 8, 8), torch.arange(6), torch.randn(6, 7)
    mixing = sample_mixing(alpha, 0, CPU)
    assert mixing.fraction is not None
    fraction = float(mixing.fraction)
    assert 0 <= fraction <= 1
    assert torch.allclose(mixing.of_images(images), fraction * images + (1 - fraction) * images.flip(0), atol=1e-6)
    targets = fraction * one_hot(labels, 7) + (1 - fraction) * one_hot(labels.flip(0), 7)
    assert float(mixing.summed_loss(logits, labels, 0.0)) == pytest.approx(
        float(cross_entropy(logits, targets, reduction="sum")), rel=1e-5
    )


@pytest.mark.parametrize("stage", [0, 1])
def test_distillation_targets_are_mixed_as_the_images_are(stage: int) -> None:
    logits, probabilities = torch.randn(4, 5), torch.randn(4, 5).softmax(1)
    mixing = Mixing(fraction=torch.tensor(0.7), stage=stage)
    mixed = 0.7 * probabilities + 0.3 * probabilities.flip(0)
    expected = -(mixed * logits.log_softmax(1)).sum()
    assert torch.allclose(mixing.distillation_loss(logits, probabilities), expected)
    plain = -(probabilities * logits.log_softmax(1)).sum()
    assert torch.allclose(Mixing().distillation_loss(logits, probabilities), plain)


def test_the_outputs_of_a_stage_are_mixed_while_the_network_runs_and_not_after() -> None:
    stages = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    images = torch.randn(4, 3)
    plain = stages(images)
    hidden = stages[0](images)
    mixing = Mixing(fraction=torch.tensor(0.7), stage=1)
    assert mixing.of_images(images) is images
    with mixing.within(stages):
        mixed = stages(images)
    assert torch.allclose(mixed, stages[1](0.7 * hidden + 0.3 * hidden.flip(0)), atol=1e-6)
    assert torch.equal(stages(images), plain)


def test_the_share_and_the_stage_follow_from_the_seed() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(
            [(float(each.fraction or 0), each.stage) for each in (sample_mixing(1.0, 3, CPU) for _ in range(20))]
        )
    assert drawn[0] == drawn[1] != drawn[2]
    assert {stage for _, stage in drawn[0]} == {0, 1, 2, 3}
