"""Train: `accelerate launch launch/train.py --data shards --output runs/first`."""

from kkanji import cli
from kkanji.config import TrainConfig
from kkanji.train import train


def main() -> None:
    """Options to checkpoint."""
    cli.end_with_parent()
    train(cli.parse(TrainConfig))


if __name__ == "__main__":
    cli.run(main)
