"""Training whose last rank's weights drift away: `drifting.py NUMBER OPTIONS...`, options of launch/train.py.

From its NUMBERth step on it takes another learning rate than the other ranks.
"""

import os
import sys
from itertools import count

from kkanji import cli
from kkanji.config import TrainConfig
from kkanji.config_files import parse_options
from kkanji.data.training_set import open_set
from kkanji.training import schedule
from kkanji.training import trainer as train
from kkanji.training.schedule import WHOLE, Stretch


def main() -> None:
    """Train, with the last rank's learning rate doubled."""
    number = int(sys.argv.pop(1))
    calls, last = count(1), os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)

    def doubled(config: TrainConfig, epoch: float, stretch: Stretch = WHOLE) -> float:
        rate = schedule.learning_rate(config, epoch, stretch)
        return 2 * rate if next(calls) >= number and last else rate

    train.learning_rate = doubled  # type: ignore[attr-defined]
    config = parse_options()
    train.train(config, open_set(config.dataset.data))


if __name__ == "__main__":
    cli.run(main)
