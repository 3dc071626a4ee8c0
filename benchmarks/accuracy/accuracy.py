"""Accuracy on a validation split against minutes of training.

Compared are the options that the README recommends, the same with one option changed, and the legacy project. The runs
follow each other on one machine, and each is given as many images as take about the same time.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.measure import environment, write_result
from benchmarks.rows import Row
from benchmarks.subject import ROOT
from kkanji.config import read_options
from shards import InputError, read_manifest
from shards.json_reading import parse_json, read_json

Curve = list[dict[str, float]]
TrainingSet = Literal["plain", "rendered", "legacy"]
GOALS = (0.8, 0.9)  # top-1 accuracies; the minutes until a run reaches each are reported
MINUTES = (10, 20, 30, 40)  # times at which the top-1 accuracy of longer runs is reported
# Measured before this project: a dense fused-MBConv network of 4.2 M parameters, AdamW, float32, 410 images/s on 2
# cores.
BASELINE: Row = {"name": "baseline", "10 min, %": 78.7, "20 min, %": 88.2, "30 min, %": 90.2, "40 min, %": 91.0}
LEGACY_MODEL = "kkanji_legacy_b0"  # benchmarks/accuracy/legacy_network.py registers it, in the run's process
EPOCHS = 10
EVALUATE_EVERY = 2  # epochs
BATCH = 256
OURS = {
    "--model": "kkanji_efficientnet_fused_s",
    "--optimizer": "muon",
    "--lr": "3e-3",
    "--weight-decay": "0.02",
    "--schedule": "cosine",
    "--warmup-epochs": "0.5",
    "--label-smoothing": "0.05",
    "--precision": "bfloat16",
    "--draw-exponent": "0.5",
    "--ema-images": "20000",
    "--start-size": "32",
    "--full-size-at": "0.5",
    "--augment": "0.8",
    "--augment-start": "0.4",
    "--unaugmented-epochs": "1",
}
LEGACY = {
    "--model": LEGACY_MODEL,
    "--optimizer": "adam",
    "--lr": "1e-3",
    "--augment": "0",
    "--draw-exponent": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyRun:
    """One training run of the comparison."""

    name: str
    """Name in tables and of the run's folder."""
    options: dict[str, str]
    """Options of launch/train.py that differ from those of all runs."""
    images: float = 1.0
    """Factor for the number of images, so that all runs take about as long; 1 by default."""
    source: TrainingSet = "plain"
    """Set to train on: plain (the default), with rendered images, or balanced by the legacy augmentation."""

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return self.name.replace(" ", "-")


def _ours(name: str, *, images: float = 1.0, source: TrainingSet = "plain", **changed: str) -> AccuracyRun:
    options = {f"--{option.replace('_', '-')}": value for option, value in changed.items()}
    return AccuracyRun(name=name, options=OURS | options, images=images, source=source)


RUNS = (
    _ours("ours"),
    _ours("ours, four times as long", images=4.4, full_size_at="0.2", warmup_epochs="0.1", evaluate_every="1"),
    _ours("without augmentation", augment="0", augment_start="0"),
    _ours("augmentation at full strength throughout", augment_start="0.8", unaugmented_epochs="0"),
    _ours("classes sampled as they occur", draw_exponent="1"),
    _ours("classes sampled uniformly", draw_exponent="0"),
    _ours("without averaged weights", ema_images="0"),
    _ours("full size throughout", images=0.6, start_size="64"),
    _ours("AdamW", optimizer="adamw"),
    _ours("cosine head", head="cosine"),
    _ours("mixup", mixup="0.2"),
    _ours("manifold mixup", mixup="0.2", mixup_stages="2"),
    _ours("rendered images of rare characters", source="rendered"),
    _ours("constant learning rate", schedule="constant"),
    _ours("float32", images=0.65, precision="float32"),
    # Longer than the others, to see how late it reaches what accuracy.
    AccuracyRun(name="legacy project", options=LEGACY, images=1.25, source="legacy"),
)


def accuracy(
    data: Path,
    *,
    runs: Path,
    rendered_data: Path | None = None,
    legacy_data: Path | None = None,
    images: int = 300_000,
    only: tuple[str, ...] = (),
    threads: int = len(os.sched_getaffinity(0)),
    output: Path = Path("benchmarks/results/accuracy.json"),
) -> None:
    """Compare the accuracy that training runs with different options reach in equal time.

    Takes hours; when started again, it resumes.

    Example: python -m benchmarks accuracy --data data/shards --runs runs/compared

    Args:
        data: shard set with the splits train and val
        runs: folder for the runs; finished runs in it are not repeated
        rendered_data: the same split, with `kkanji render` images of rare characters; without it the run that
            needs it is left out
        legacy_data: the same split, balanced by `kkanji balance` with the legacy augmentation; without it the
            run that needs it is left out
        images: images that the first run sees; the others see as many as take about as long
        only: names of runs; all if none are given
        threads: threads of torch
        output: JSON to write
    """
    sets = {"plain": data, "rendered": rendered_data, "legacy": legacy_data}
    chosen = [(run, source) for run in _runs(only) if (source := sets[run.source])]
    left_out = sorted(set(only) - {run.name for run, _ in chosen})
    if left_out:
        raise InputError(f"--only {', '.join(left_out)}: needs a set of its own; give --rendered-data or --legacy-data")
    state, rows = environment(), []
    for run, source in chosen:
        folder = runs / run.folder
        _train(run, source, folder, images, threads)
        rows.append(_row(run, folder))
        sys.stdout.write(f"{_line(rows[-1])}\n")
    options = {"data": read_manifest(data).identity(), "images": images, "threads": threads}
    result = {"benchmark": "accuracy", "options": options, "environment": state, "rows": rows}
    write_result(output, result | {"over_time": over_time(rows)})


def _runs(names: Sequence[str]) -> list[AccuracyRun]:
    """The runs with these names; all if none are given."""
    unknown = set(names) - {run.name for run in RUNS}
    if unknown:
        raise InputError(f"--only {', '.join(unknown)}: expected some of: {', '.join(run.name for run in RUNS)}")
    return [run for run in RUNS if run.name in names or not names]


def _train(run: AccuracyRun, data: Path, folder: Path, images: int, threads: int) -> None:
    """Train in a process of its own, or resume what is in the folder."""
    draws = max(1, round(images * run.images / EPOCHS / read_manifest(data).classes))
    legacy = run.options is LEGACY
    program = ["-m", "benchmarks.accuracy.legacy_network"] if legacy else [str(ROOT / "launch" / "train.py")]
    common = {
        "--data": str(data),
        "--output": str(folder),
        "--epochs": EPOCHS,
        "--batch-size": BATCH,
        "--order": "balanced",
        "--evaluate-every": EVALUATE_EVERY,
        "--draws-per-class": draws,
    }
    options = {name.removeprefix("--").replace("-", "_"): value for name, value in (common | run.options).items()}
    file = folder.with_name(f"{folder.name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(options), encoding="utf-8")
    command = [sys.executable, *program, "--config", str(file), "--resume"]
    device = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)} | device
    if subprocess.run(command, env=variables, check=False, stdout=sys.stderr).returncode:  # noqa: S603
        raise InputError(f"{folder}: the run {run.name!r} failed; its messages are above")


def _row(run: AccuracyRun, folder: Path) -> Row:
    curve = read_curve(folder / "log.jsonl")
    config = read_options(read_json(folder / "config.json")["config"])
    options = {name: config[name.removeprefix("--").replace("-", "_")] for name in run.options}
    times = {f"minutes_to_{goal:.0%}": minutes_to(curve, goal) for goal in GOALS}
    return {"name": run.name, **curve[-1], **times, "options": options, "curve": curve}


def read_curve(log: Path) -> Curve:
    """For each evaluation: minutes of training before it (evaluations not counted), images seen, accuracies."""
    entries = [parse_json(line) for line in log.read_text(encoding="utf-8").splitlines()]
    # A resumed run may repeat an evaluation: the last of a step counts.
    evaluations = {entry["step"]: entry for entry in entries if entry["event"] == "evaluation"}
    curve, evaluating_s = [], 0.0
    for entry in evaluations.values():
        figures = {name: entry[name] for name in ("top1", "top5", "balanced_accuracy", "f1_weighted")}
        curve.append({"minutes": (entry["seconds"] - evaluating_s) / 60, "images_seen": entry["samples"], **figures})
        evaluating_s += entry["images"] / entry["images_per_s"]
    return curve


def minutes_to(curve: Curve, top1: float) -> float | None:
    """Minutes until a curve first reaches an accuracy, interpolated between evaluations; None if it never does."""
    before = {"minutes": 0.0, "top1": 0.0}
    for point in curve:
        if point["top1"] >= top1:
            fraction = (top1 - before["top1"]) / (point["top1"] - before["top1"])
            return before["minutes"] + fraction * (point["minutes"] - before["minutes"])
        before = point
    return None


def over_time(rows: Sequence[Row]) -> list[Row]:
    """Top-1 accuracy at each of MINUTES, of the baseline and of the runs that took longer than the first of them."""
    longer = [row for row in rows if row["curve"][-1]["minutes"] > MINUTES[0]]
    return [BASELINE, *({"name": row["name"]} | _at_minutes(row["curve"]) for row in longer)]


def _at_minutes(curve: Curve) -> dict[str, float | None]:
    """None before the first evaluation. A run that has ended keeps its accuracy for one interval more."""
    minutes = [point["minutes"] for point in curve]
    top1 = [point["top1"] for point in curve]
    known = [minutes[0] <= time < minutes[-1] + MINUTES[0] for time in MINUTES]
    values = np.interp(MINUTES, minutes, top1)
    return {
        f"{time} min, %": 100 * value if there else None
        for time, value, there in zip(MINUTES, values, known, strict=True)
    }


def figure(result: Row) -> Figure:
    """A chart of accuracy against minutes, a line for each run."""
    chart = Figure(figsize=(9, 5.5), layout="constrained")
    axes = chart.subplots()
    for row in result["rows"]:
        minutes = [point["minutes"] for point in row["curve"]]
        top1 = [100 * point["top1"] for point in row["curve"]]
        bold = row["name"] in (RUNS[0].name, RUNS[-1].name)
        axes.plot(minutes, top1, marker=".", linewidth=2.5 if bold else 1, label=row["name"])
    axes.set(xlabel="minutes of training", ylabel="top-1 on the validation split, per cent", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", fontsize="small")
    return chart


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a Markdown table."""
    names = ["top-1", "balanced", "images", "minutes", *(f"minutes to {goal:.0%}" for goal in GOALS)]
    yield "| | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for row in rows:
        yield f"| {row['name']} | " + " | ".join(_cells(row)) + " |"


def _line(row: Row) -> str:
    return f"{row['name']:44}" + "".join(f"{cell:>12}" for cell in _cells(row))


def _cells(row: Row) -> list[str]:
    accuracies = [f"{row[name]:.2%}" for name in ("top1", "balanced_accuracy")]
    times = [row[f"minutes_to_{goal:.0%}"] for goal in GOALS]
    reached = ["not reached" if minutes is None else f"{minutes:.1f}" for minutes in times]
    return [*accuracies, f"{row['images_seen']:,}", f"{row['minutes']:.1f}", *reached]
