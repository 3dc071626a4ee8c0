"""Average checkpoints: `python launch/average.py --checkpoints FIRST SECOND --output FOLDER`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from kkanji import cli
from kkanji.checkpoint.average import average


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageConfig:
    """Write the mean of checkpoints' weights as a checkpoint to evaluate, use and export.

    For runs of which one began with the other's weights, or all with the same. Example: python launch/average.py
    --checkpoints runs/b/checkpoints/best runs/a/checkpoints/best --output runs/b/checkpoints/averaged
    """

    checkpoints: tuple[Path, ...]
    """Two or more folders of checkpoints. What the mean says of its training is the first one's."""
    output: Path
    """Folder to make. RUN/checkpoints/averaged of the first one's run is evaluated and exported as that run's."""
    overwrite: bool = False
    """Replace OUTPUT if average.py made it."""


def main(config: AverageConfig) -> None:
    """Average, write, say where."""
    average(config.checkpoints, config.output, overwrite=config.overwrite)
    sys.stdout.write(f"{config.output}: the mean of {len(config.checkpoints)} checkpoints' weights\n")


if __name__ == "__main__":
    cli.run(lambda: main(cli.parse(AverageConfig)))
