import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from kkanji.mixup import mixup


def test_without_mixing_nothing_changes() -> None:
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    mixed = mixup(images, labels, 0.0)
    assert mixed.images is images
    logits = torch.randn(4, 5)
    assert mixed.summed_loss(logits, 0.1) == cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_images_and_targets_are_mixed_by_one_share(alpha: float) -> None:
    torch.manual_seed(3)
    images, labels, logits = torch.randn(6, 1, 8, 8), torch.arange(6), torch.randn(6, 7)
    mixed = mixup(images, labels, alpha)
    assert mixed.share is not None
    share = float(mixed.share)
    assert 0 <= share <= 1
    assert torch.allclose(mixed.images, share * images + (1 - share) * images.flip(0), atol=1e-6)
    targets = share * one_hot(labels, 7) + (1 - share) * one_hot(labels.flip(0), 7)
    assert float(mixed.summed_loss(logits, 0.0)) == pytest.approx(
        float(cross_entropy(logits, targets, reduction="sum")), rel=1e-5
    )


def test_the_share_follows_from_the_seed() -> None:
    images, labels = torch.randn(4, 1, 8, 8), torch.arange(4)
    shares = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        share = mixup(images, labels, 1.0).share
        assert share is not None
        shares.append(float(share))
    assert shares[0] == shares[1] != shares[2]
