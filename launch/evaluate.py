"""Evaluate a checkpoint: `kkanji evaluate`, or `accelerate launch -m launch.evaluate` on several devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kkanji import cli
from kkanji.launchers import end_with_launcher


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Evaluate a checkpoint exactly, each image once, and write evaluation.json, predictions.npz and report.html.

    It runs in one process. On several GPUs: `accelerate launch -m launch.evaluate` with the same options.

    Example: kkanji evaluate --checkpoint runs/first/checkpoints/best --data data/shards
    """

    checkpoint: Path
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..., or one that `kkanji export` made."""
    data: str
    """Shard set: a folder or a URL. An image of a class that the model does not know counts as wrong."""
    split: str = "val"
    """Part of the set to evaluate."""
    tta: Literal[1, 5, 9, 13, 21, 25] = 1
    """Views of each image, over which the probabilities are averaged. 1 takes only the image itself, 5 also shifts it
    by a pixel up, down, left and right, 9 also diagonally, and 13 or more also by two pixels. The time grows with
    the number."""
    temperature: bool = False
    """Fit a temperature on the split that calibrates the probabilities, for `kkanji export` and the report."""
    neighbours: bool = True
    """Let the neighbours vote, as `kkanji predict` does, if the folder has an index of them."""
    output: Path | None = None
    """Folder for the results, made if there is none. None takes the run's folder, two levels above the checkpoint.
    report.html is written only where log.jsonl lies, and not of a set with characters that the model does not know."""


def evaluate(config: EvaluateConfig) -> None:
    """Predict, measure, write. Raises InputError if the checkpoint, the data or the output folder cannot be used."""
    from launch.evaluation import evaluate_checkpoint  # torch takes seconds to import, which --help does not need

    evaluate_checkpoint(
        config.checkpoint,
        config.data,
        config.split,
        views=config.tta,
        temperature=config.temperature,
        neighbours=config.neighbours,
        output=config.output,
    )


def main() -> None:
    """Run with the options of the command line."""
    end_with_launcher()
    evaluate(cli.parse(EvaluateConfig))


if __name__ == "__main__":
    cli.run(main)
