"""Evaluate a checkpoint on a split and write its report: `accelerate launch launch/evaluate.py --checkpoint ...`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from kkanji import checkpoint, cli
from kkanji.data import class_map, open_set
from kkanji.evaluate import plain_feed, predict_split
from kkanji.metrics import MEASURES, summarise
from kkanji.models import create_model
from kkanji.report import write_report
from shards import InputError, write_file


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Evaluate a checkpoint exactly, each image once, and write evaluation.json, predictions.npz and report.html.

    Example: accelerate launch launch/evaluate.py --checkpoint runs/first/checkpoints/best --data shards
    """

    checkpoint: Path
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..."""
    data: str
    """Shard set with the same classes: a folder or a URL."""
    split: str = "val"
    """Part of the set to evaluate."""
    output: Path | None = None
    """Folder for the results; the run's own, two above the checkpoint, if not given. A report needs the run's log."""


def evaluate(config: EvaluateConfig) -> None:
    """Predict, measure, write."""
    checkpoint.check(config.checkpoint)
    output = config.output or config.checkpoint.parent.parent
    if not output.is_dir() or (config.output is None and not (output / "config.json").is_file()):
        raise InputError(f"{output}: not a run's folder; give an existing folder for the results as --output")
    data = open_set(config.data)
    classes = class_map(data)
    known = checkpoint.read_classes(config.checkpoint)
    if known.identity() != classes.identity():
        found = f"{len(known)} classes, not those of {config.data} ({len(classes)})"
        raise InputError(f"{config.checkpoint}: a checkpoint of other classes: {found}; give the set it was trained on")
    reader, state = data.split(config.split), checkpoint.read_state(config.checkpoint)
    accelerator = Accelerator()
    model = create_model(state["config"]["model"], len(classes))
    checkpoint.load_model(config.checkpoint, model)
    predictions = predict_split(accelerator, accelerator.prepare(model), plain_feed(reader, len(classes)))
    if not accelerator.is_main_process:
        return
    originals = np.array(state["training_originals"], np.int64)
    summary = {
        "split": config.split,
        "classes": len(classes),
        "checkpoint": config.checkpoint.resolve().name,
        "lineage": data.manifest.lineage,
        "data": data.manifest.identity(),
        **summarise(predictions, originals),
    }
    predictions.save(output / "predictions.npz")
    write_file(output / "evaluation.json", json.dumps(summary, indent=1) + "\n")
    sys.stdout.write(_text(summary))
    if (output / "log.jsonl").is_file():
        report = write_report(
            output,
            characters=classes.characters,
            training_counts=originals,
            images_of=lambda n: reader.collect(n).images,
        )
        sys.stdout.write(f"report: {report}\n")


BINS_HEAD = "training originals of the class    classes    images    top-1    top-5"


def _text(summary: dict[str, Any]) -> str:
    lines = [f"{'images':20} {summary['images']:,}", *(f"{name:20} {summary[name]:.4f}" for name in MEASURES)]
    rows = (_row(entry) for entry in summary["bins"] if entry["images"])
    return "\n".join([*lines, BINS_HEAD, *rows]) + "\n"


def _row(entry: dict[str, Any]) -> str:
    counts = f"{entry['classes']:11,}{entry['images']:10,}"
    return f"{entry['training_images']:>31}{counts}{entry['top1']:9.2%}{entry['top5']:9.2%}"


if __name__ == "__main__":
    cli.run(lambda: evaluate(cli.parse(EvaluateConfig)))
