"""Training whose last rank has little memory: `cramped.py NUMBER OPTIONS...`, options of launch/train.py.

Its network cannot be trained on more than NUMBER images at once.
"""

import os
import sys

import torch
from torch import Tensor

from kkanji import cli
from kkanji.config import TrainConfig
from kkanji.data.training_set import open_set
from kkanji.models import Network
from kkanji.training.trainer import train


def main() -> None:
    """Train, with torch's error where a GPU would raise it: in the middle of the network."""
    most = int(sys.argv.pop(1))
    last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    whole = Network.forward_head

    def forward_head(self: Network, maps: Tensor, pre_logits: bool = False) -> Tensor:
        if last and torch.is_grad_enabled() and len(maps) > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. {len(maps)} images")
        head: Tensor = whole(self, maps, pre_logits)
        return head

    Network.forward_head = forward_head
    config = cli.parse(TrainConfig)
    train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
