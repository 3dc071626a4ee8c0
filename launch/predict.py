"""Read characters: `python launch/predict.py IMAGE... --checkpoint runs/first/checkpoints/best`."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from kkanji import cli
from kkanji.predict import CharacterReader, Guess, load_character

BATCH = 256
PRETRAINED = Path(__file__).parents[1] / "models" / "kuzushiji-kanji"


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Print the most probable characters of image files, each with its probability.

    An image shows one character; any size, gray or colour; light ink on dark or dark on light.

    Example: python launch/predict.py crop.png --top 3
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    checkpoint: Path = PRETRAINED
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..., or one that launch/export.py made."""
    top: int = 5
    """Characters for each image."""
    format: Literal["text", "json"] = "text"
    """json: one object a line."""


def predict(config: PredictConfig) -> None:
    """Every file is read before the first result is printed, so that a bad one stops the run early."""
    images = np.stack([load_character(path) for path in config.images])
    reader = CharacterReader(config.checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for start in range(0, len(images), BATCH):
        paths = config.images[start : start + BATCH]
        for path, guesses in zip(paths, reader.read(images[start : start + BATCH], config.top), strict=True):
            sys.stdout.write(_line(path, guesses, config.format))


def _line(path: Path, guesses: list[Guess], form: str) -> str:
    if form == "json":
        return json.dumps({"file": str(path), "guesses": [asdict(g) for g in guesses]}, ensure_ascii=False) + "\n"
    readings = "  ".join(f"{guess.character} {guess.label} {guess.probability:.1%}" for guess in guesses)
    return f"{path}  {readings}\n"


if __name__ == "__main__":
    cli.run(lambda: predict(cli.parse(PredictConfig)))
