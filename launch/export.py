"""Make a trained model ready for use: `python launch/export.py --checkpoint RUN/checkpoints/best --output FOLDER`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kkanji import checkpoint, cli
from kkanji.config import read_json
from shards import InputError

CARD = """# {model}: {classes:,} characters of {name}

Reads one character from a 64x64 gray image, white ink on black. A checkpoint of kkanji in half precision:
`python launch/predict.py IMAGE --checkpoint` this folder.

- Trained on {train_images:,} images, {epochs} epochs of global batch {batch_size}.
- Evaluated on {images:,} images of split `{split}`, whose originals are {lineage_verdict}: top-1 {top1:.2%}, top-5
  {top5:.2%}, balanced accuracy {balanced_accuracy:.2%}, weighted F1 {f1_weighted:.4f}, measured in float32.
- Data: {licence}

| training images of the character | characters | images | top-1 |
|---|---|---|---|
{rows}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Write a checkpoint for use: half-precision weights, class map, model card with the evaluation's figures.

    Example: python launch/export.py --checkpoint runs/first/checkpoints/best --output models/first
    """

    checkpoint: Path
    """Folder of a checkpoint of a run that launch/evaluate.py has evaluated."""
    output: Path
    """Folder to make."""
    overwrite: bool = False
    """Replace OUTPUT if it exists."""


def export(config: ExportConfig) -> None:
    """The card's figures come from the run's evaluation.json."""
    run = config.checkpoint.parent.parent
    facts, evaluation = read_json(run / "config.json"), read_json(run / "evaluation.json")
    if evaluation["checkpoint"] != config.checkpoint.resolve().name:
        found = f"evaluation.json is of {evaluation['checkpoint']}, not of {config.checkpoint.resolve().name}"
        raise InputError(f"{run}: {found}; run launch/evaluate.py on this checkpoint first")
    checkpoint.export(config.checkpoint, config.output, card=_card(facts, evaluation), overwrite=config.overwrite)
    size = sum(path.stat().st_size for path in config.output.iterdir())
    sys.stdout.write(f"{config.output}: {size / 1e6:.1f} MB\n")


def _card(facts: dict[str, Any], evaluation: dict[str, Any]) -> str:
    known = evaluation["lineage"] == "known"
    rows = (
        f"| {entry['training_images']} | {entry['classes']:,} | {entry['images']:,} | {entry['top1']:.1%} |"
        for entry in evaluation["bins"]
        if entry["images"]
    )
    values = {**facts["config"], **facts["data"], **evaluation}
    verdict = "proven apart from training" if known else "of unknown lineage: not proven apart from training"
    return CARD.format(**values, lineage_verdict=verdict, rows="\n".join(rows))


if __name__ == "__main__":
    cli.run(lambda: export(cli.parse(ExportConfig)))
