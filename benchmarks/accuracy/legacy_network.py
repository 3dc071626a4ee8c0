"""Training with the legacy project's network; options of launch/train.py.

EfficientNet-B0 without squeeze-excitation, whose stem it built for three channels; here it takes the one that images
have. It is registered in this process alone: a network to compare with, not to use.
"""

from typing import Any

from timm import create_model
from timm.models import register_model
from torch import Tensor, nn

from kkanji import cli
from kkanji.config import TrainConfig
from kkanji.data.training_set import open_set
from kkanji.training.trainer import train

NAME = "kkanji_original_b0"


class NoExcitation(nn.Module):
    """In place of squeeze-excitation: nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, h, w] as they are."""
        return maps


@register_model
def kkanji_legacy_b0(*, head: str = "linear", **kwargs: Any) -> nn.Module:
    """The legacy project's EfficientNet-B0; it has the linear classifier only."""
    if head != "linear":
        raise ValueError(f"head={head!r}; expected 'linear'")
    model: nn.Module = create_model("efficientnet_b0", in_chans=1, se_layer=NoExcitation, drop_rate=0.2, **kwargs)
    return model


def main() -> None:
    """Train it."""
    config = cli.parse(TrainConfig)
    train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
