"""Train: `accelerate launch launch/train.py --data shards --output runs/first`."""

from kkanji import cli
from kkanji.config import TrainConfig
from kkanji.data.training_set import open_set


def main() -> None:
    """Parse the options and train. torch is imported after the options and the set are known to be good."""
    cli.end_with_launcher()
    config = cli.parse(TrainConfig)
    data = open_set(config.dataset.data, cache_size=config.dataset.cache_size)
    from kkanji.training.trainer import train

    train(config, data)


if __name__ == "__main__":
    cli.run(main)
