"""Evaluate a checkpoint on a split and write its report: `accelerate launch launch/evaluate.py --checkpoint ...`."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from kkanji import checkpoint, cli
from kkanji.checkpoint import lineage
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap
from kkanji.config import strict_json
from kkanji.data.feed import Feed
from kkanji.data.training_set import class_map, open_set
from kkanji.evaluation.calibration import TemperatureScan
from kkanji.evaluation.metrics import MEASURES, interval, summarise
from kkanji.evaluation.predict_split import predict_split, unaugmented_feed
from kkanji.evaluation.predictions import Predictions
from kkanji.report import write_report
from kkanji.report.text import first_of
from kkanji.training.data_check import DataCheck
from shards import InputError, atomic_file
from shards.json_reading import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Evaluate a checkpoint exactly, each image once, and write evaluation.json, predictions.npz and report.html.

    Example: accelerate launch launch/evaluate.py --checkpoint runs/first/checkpoints/best --data shards
    """

    checkpoint: Path
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..., or one that launch/export.py made."""
    data: str
    """Shard set: a folder or a URL. It may have other classes than the model, which are never right."""
    split: str = "val"
    """Part of the set to evaluate."""
    tta: Literal[1, 5, 9, 13, 21, 25] = 1
    """Views of each image whose probabilities are averaged: 1, itself; 5, also shifted by a pixel up, down, left and
    right; 9, also diagonally; more, also by two pixels. Costs as many times as much."""
    temperature: bool = False
    """Fit a temperature on the split, so that stated probabilities hold; for launch/export.py and the report."""
    output: Path | None = None
    """Folder for the results; the run's own, two above the checkpoint, if not given. A report needs the run's log."""


def evaluate(config: EvaluateConfig) -> None:
    """Predict, measure, write."""
    checkpoint.check(config.checkpoint)
    output = config.output or config.checkpoint.parent.parent
    if not output.is_dir() or (config.output is None and not (output / "config.json").is_file()):
        raise InputError(f"{output}: not a run's folder; give an existing folder for the results as --output")
    data = open_set(config.data)
    own, known = class_map(data), checkpoint.read_classes(config.checkpoint)
    classes = known.with_others(own)
    state = checkpoint.read_state(config.checkpoint)
    # Named training_drawn until November 2026; older checkpoints count rendered images as originals.
    own_rendered = state.get("training_rendered") or state.get("training_drawn", [0] * len(known))
    originals, rendered = (
        np.pad(np.array(counts, np.int64), (0, len(classes) - len(known)))
        for counts in (state["training_originals"], own_rendered)
    )
    reader, accelerator = data.split(config.split), Accelerator()
    numbers = np.array([classes.ids[code_point] for code_point in own.code_points])
    with DataCheck(accelerator, data, config.split) as check:
        predictions, spent = _predict(config, accelerator, unaugmented_feed(reader, len(classes), numbers))
        check.finish()
    if not accelerator.is_main_process:
        return
    summary = {
        "split": config.split,
        "checkpoint": config.checkpoint.resolve().name,
        "data": data.manifest.identity(),
        **lineage.record(config.checkpoint, data.manifest.identity(), data.manifest.lineage, reader.sources()),
        "tta": config.tta,
        **spent,
        **summarise(predictions, originals),
        **_classes(classes, predictions, originals + rendered),
    }
    with atomic_file(output / "evaluation.json") as file:
        file.write(strict_json(summary, indent=1).encode() + b"\n")
        file.flush()  # it has its room on the disk before the predictions that it belongs to are replaced
        predictions.save(output / "predictions.npz")
    run = config.checkpoint.parent.parent / "config.json"
    trained_on = read_json(run).get("data", {}) if run.is_file() else {}
    sys.stdout.write(_text(summary, lineage.independence(trained_on, summary)))
    if (output / "log.jsonl").is_file():
        report = write_report(
            output,
            characters=classes.characters,
            training_counts=originals,
            images_of=lambda n: reader.collect(n).images,
        )
        sys.stdout.write(f"report: {report}\n")


def _predict(config: EvaluateConfig, accelerator: Accelerator, feed: Feed) -> tuple[Predictions, dict[str, Any]]:
    """All readings, the seconds they took and the temperature if it is wanted."""
    prepared = accelerator.prepare(load_trained(config.checkpoint))
    scan = TemperatureScan(accelerator.device) if config.temperature else None
    start = perf_counter()
    predictions = predict_split(accelerator, prepared, feed, views=config.tta, scan=scan)
    temperature = asdict(scan.fit(accelerator)) if scan else None
    return predictions, {"seconds": perf_counter() - start, "temperature": temperature}


def _classes(classes: ClassMap, predictions: Predictions, trained: NDArray[np.int64]) -> dict[str, Any]:
    """Which classes the averages leave out, and which could not be learnt. trained: different images of each [C]."""
    images = predictions.label.bincount(minlength=len(classes)).tolist()
    entries = list(zip(classes.labels, images, trained.tolist(), strict=True))
    return {
        "classes": len(classes),
        "without_images": [name for name, evaluated, _ in entries if not evaluated],
        "without_training": [name for name, _, trained in entries if not trained],
    }


BINS_HEAD = "training originals of the class    classes    images    top-1    top-5"


def _text(summary: dict[str, Any], verdict: lineage.Independence) -> str:
    lines = [f"{'images':20} {summary['images']:,}", *(f"{name:20} {summary[name]:.4f}" for name in MEASURES)]
    low, high = interval(summary["top1"], summary["images"])
    lines.append(f"{'top1, 95 % interval':20} {low:.4f} to {high:.4f}")
    lines.append(f"{'classes evaluated':20} {summary['evaluated_classes']:,} of {summary['classes']:,}")
    lines.append(f"{'disjoint from training':20} {verdict}")
    lines.append(f"{'images/s':20} {summary['images'] / summary['seconds']:,.0f}")
    if summary["without_training"]:
        lines.append(
            f"{'never trained on':20} {first_of(summary['without_training'], 'without_training in evaluation.json')}"
        )
    if summary["temperature"]:
        fit = summary["temperature"]
        error = f"calibration_error {fit['calibration_error_before']:.4f} to {fit['calibration_error_after']:.4f}"
        lines.append(f"{'temperature':20} {fit['value']:.3f}: {error} (cross-fitted)")
    rows = (_row(entry) for entry in summary["bins"] if entry["images"])
    return "\n".join([*lines, BINS_HEAD, *rows]) + "\n"


def _row(entry: dict[str, Any]) -> str:
    counts = f"{entry['classes']:11,}{entry['images']:10,}"
    return f"{entry['training_images']:>31}{counts}{entry['top1']:9.2%}{entry['top5']:9.2%}"


if __name__ == "__main__":
    cli.run(lambda: evaluate(cli.parse(EvaluateConfig)))
