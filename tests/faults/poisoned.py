"""Training whose last rank meets a micro-batch of NaN: `poisoned.py NUMBER OPTIONS...`, options of launch/train.py."""

import os
import sys
from itertools import count

from torch import Tensor

from kkanji import cli, pixels
from kkanji.config_files import parse_options
from kkanji.data.training_set import open_set
from kkanji.training import trainer as train


def main() -> None:
    """Train, with the NUMBERth micro-batch of the last rank spoilt."""
    number = int(sys.argv.pop(1))
    calls, last = count(1), os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)

    def spoilt(images: Tensor) -> Tensor:
        result = pixels.normalise(images)
        return result * float("nan") if next(calls) == number and last else result

    train.normalise = spoilt  # type: ignore[attr-defined]
    config = parse_options()
    train.train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
