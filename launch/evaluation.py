"""What `kkanji evaluate` does once its options are known: predict, measure, write."""

import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from kkanji import checkpoint
from kkanji.checkpoint import lineage
from kkanji.checkpoint.load import load_trained
from kkanji.checkpoint.neighbours import has_neighbours, read_settings, with_neighbours
from kkanji.classes import ClassMap
from kkanji.config import strict_json
from kkanji.data.training_set import class_map, open_set
from kkanji.environment import choose_kernels
from kkanji.evaluation.calibration import TEMPERATURES, TemperatureScan
from kkanji.evaluation.metrics import MEASURES, interval, summarise
from kkanji.evaluation.predict_split import predict_split, unaugmented_feed
from kkanji.evaluation.predictions import Predictions
from kkanji.neighbours.vote import Mix
from kkanji.report import write_report
from kkanji.report.text import first_of
from kkanji.tracking.trackers import add_report
from kkanji.training.agreement import meet
from kkanji.training.data_check import DataCheck
from shards import InputError, atomic_file
from shards.json_reading import read_json
from shards.read.cut_files import survived


def evaluate_checkpoint(
    path: Path,
    location: str,
    split: str,
    *,
    views: int = 1,
    temperature: bool = False,
    neighbours: bool = True,
    output: Path | None = None,
) -> None:
    """Predict, measure, write. Options as in `launch.evaluate.EvaluateConfig`; path: the checkpoint's folder."""
    choose_kernels(benchmark=True)
    checkpoint.check(path)
    results = output or path.parent.parent
    if output is None and not (results / "config.json").is_file():
        found = f"{path}: lies in no run's folder, where the results would go; an exported one does not"
        raise InputError(f"{found}; give a folder for them as --output")
    if results.exists() and not results.is_dir():
        raise InputError(f"{results}: is a file; give a folder for the results as --output")
    data = open_set(location)
    own, known = class_map(data), checkpoint.read_classes(path)
    classes = known.with_others(own)
    originals, rendered = _training_images(path, len(classes))
    meet()
    reader, accelerator = data.split(split), Accelerator()
    numbers = np.array([classes.ids[code_point] for code_point in own.code_points])
    feed = unaugmented_feed(reader, len(classes), numbers)
    voting = neighbours and has_neighbours(path)
    stored = 1.0 if voting else float(checkpoint.read_state(path).get("temperature", 1.0))  # the mix contains it
    temperatures = {1.0, stored} | set(TEMPERATURES if temperature else ())
    scan = TemperatureScan(accelerator.device, sorted(temperatures)) if len(temperatures) > 1 else None
    with DataCheck(accelerator, data, split) as check, survived():
        network = load_trained(path)
        model = accelerator.prepare(with_neighbours(path, network) if voting else network)
        start = perf_counter()
        predictions = predict_split(accelerator, model, feed, views=views, scan=scan)
        fit = asdict(scan.fit(accelerator)) if scan and temperature else None
        errors = scan.errors(accelerator) if scan else {}
        seconds = perf_counter() - start
        check.finish()
    if not accelerator.is_main_process:
        return
    measured = summarise(predictions, originals, classes.characters)
    summary = {
        "split": split,
        "checkpoint": path.resolve().name,
        "weights": checkpoint.weights_identity(path),
        "data": data.manifest.identity(),
        **lineage.record(path, data.manifest.identity(), data.manifest.lineage, reader.sources()),
        "tta": views,
        "neighbours": asdict(read_settings(path).mix) if voting else None,
        "seconds": seconds,
        "temperature": fit,
        "stored_temperature": stored,
        "stored_calibration_error": errors.get(stored, measured["calibration_error"]),
        **measured,
        **_classes(classes, predictions, originals + rendered),
    }
    results.mkdir(parents=True, exist_ok=True)
    _save(results, summary, predictions)
    sys.stdout.write(_text(summary, lineage.independence(_trained_on(path), summary)))
    if others := len(classes) - len(known):
        sys.stdout.write(f"report: none, as {others} of the set's characters are not the model's\n")
    elif (results / "log.jsonl").is_file():
        report = write_report(
            results,
            characters=classes.characters,
            training_counts=originals,
            images_of=lambda n: reader.collect(n).images,
        )
        sys.stdout.write(f"report: {report}\n")
        add_report(results, report, results / "evaluation.json")


def _training_images(path: Path, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Originals and rendered images of each class that the checkpoint was trained on, [C] each."""
    state = checkpoint.read_state(path)
    if "training_originals" not in state:
        raise InputError(f"{path / checkpoint.STATE}: no training_originals; use another checkpoint")
    originals = state["training_originals"]
    # The older name, then checkpoints that count rendered images as originals.
    rendered = state.get("training_rendered", state.get("training_drawn", [0] * len(originals)))
    if max(len(originals), len(rendered)) > classes:
        raise InputError(f"{path / checkpoint.STATE}: counts of more than {classes} classes; use another checkpoint")
    counts = [np.pad(np.array(each, np.int64), (0, classes - len(each))) for each in (originals, rendered)]
    return counts[0], counts[1]


def _save(folder: Path, summary: dict[str, Any], predictions: Predictions) -> None:
    with atomic_file(folder / "evaluation.json") as file:
        file.write(strict_json(summary, indent=1).encode() + b"\n")
        file.flush()  # a full disk shows here, before the predictions that belong to the old summary are replaced
        predictions.save(folder / "predictions.npz")


def _trained_on(path: Path) -> dict[str, Any]:
    """What the checkpoint's run recorded of its data; nothing if the checkpoint lies outside a run."""
    run = path.parent.parent / "config.json"
    found: dict[str, Any] = read_json(run).get("data", {}) if run.is_file() else {}
    return found


def _classes(classes: ClassMap, predictions: Predictions, trained: NDArray[np.int64]) -> dict[str, Any]:
    """Which classes have no image, so that the averages leave them out, and which were never trained on.

    trained: training images of each class [C].
    """
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
    if summary["neighbours"]:
        mix = Mix(**summary["neighbours"])
        lines.append(f"{'neighbours':20} {mix.count} vote at temperature {mix.temperature:g}, weight {mix.weight:g}")
    lines.append(f"{'images/s':20} {summary['images'] / summary['seconds']:,.0f}")
    if summary["without_training"]:
        named = first_of(summary["without_training"], "without_training in evaluation.json")
        lines.append(f"{'never trained on':20} {named}")
    if summary["stored_temperature"] != 1:
        error = f"calibration_error {summary['stored_calibration_error']:.4f} as predict and ONNX state probabilities"
        lines.append(
            f"{'stored temperature':20} {summary['stored_temperature']:.3f}: {error}; the figures above are at 1"
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
