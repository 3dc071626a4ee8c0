"""Train: `accelerate launch launch/train.py --data shards --output runs/first`."""

from kkanji import cli
from kkanji.config import TrainConfig
from kkanji.data.training_set import open_set


def main() -> None:
    """Options to checkpoint. Wrong ones, and a set that is not there, are told before seconds of imports."""
    cli.end_with_launcher()
    config = cli.parse(TrainConfig)
    data = open_set(config.data, cache_size=config.cache_size)
    from kkanji.training.trainer import train

    train(config, data)


if __name__ == "__main__":
    cli.run(main)
