"""Average checkpoints: `kkanji average --checkpoints FIRST SECOND --output FOLDER`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from kkanji import cli


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageConfig:
    """Write the mean of the weights of several checkpoints, as a checkpoint to evaluate, use and export.

    For runs that started from the same weights, or where one started from the other's.

    Example: kkanji average --checkpoints runs/b/checkpoints/best runs/a/checkpoints/best --output runs/averaged
    """

    checkpoints: tuple[Path, ...]
    """Folders of two or more checkpoints. The result describes its training as the first of them does."""
    output: Path
    """Folder to make. As RUN/checkpoints/averaged it is evaluated and exported as a checkpoint of RUN."""
    overwrite: bool = False
    """Replace OUTPUT if `kkanji average` made it."""


def average(config: AverageConfig) -> None:
    """Write the mean. Raises InputError if a checkpoint is damaged or of another network."""
    from kkanji.checkpoint.average import average as write_average  # torch takes seconds to import

    write_average(config.checkpoints, config.output, overwrite=config.overwrite)
    sys.stdout.write(f"{config.output}: the mean of {len(config.checkpoints)} checkpoints' weights\n")


def main() -> None:
    """Run with the options of the command line."""
    average(cli.parse(AverageConfig))


if __name__ == "__main__":
    cli.run(main)
