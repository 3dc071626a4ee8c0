"""Train the legacy project's network, with the options of launch/train.py.

It is EfficientNet-B0 without squeeze-excitation. The legacy project built its stem for three channels; here it has one,
as the images have. It is registered in this process only: a network to compare with, not to use.
"""

from typing import Any

from timm import create_model
from timm.models import register_model
from torch import Tensor, nn

from kkanji import cli
from kkanji.config_files import parse_options
from kkanji.data.training_set import open_set
from kkanji.training.trainer import train


class NoExcitation(nn.Module):
    """Takes the place of squeeze-excitation and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [B, C, h, w] unchanged."""
        return maps


@register_model
def kkanji_legacy_b0(*, head: str = "linear", **kwargs: Any) -> nn.Module:
    """The legacy project's EfficientNet-B0. Raises ValueError for another head than the linear classifier."""
    if head != "linear":
        raise ValueError(f"head={head!r}; expected 'linear'")
    model: nn.Module = create_model("efficientnet_b0", in_chans=1, se_layer=NoExcitation, drop_rate=0.2, **kwargs)
    return model


def main() -> None:
    """Entry point of `python -m benchmarks.accuracy.legacy_network`."""
    config = parse_options()
    train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
