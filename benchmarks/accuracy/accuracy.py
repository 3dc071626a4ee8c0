"""Accuracy on a validation split against minutes of training: the recipe in the README, the same without each of its
parts, and the legacy project's recipe. One training after another on one machine, of about the same length each."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.measure import environment, write_result
from benchmarks.subject import ROOT
from kkanji.config import read_json
from shards import InputError, read_manifest

Row = dict[str, Any]
Curve = list[dict[str, float]]
MARKS = (0.8, 0.9)  # top-1 whose time is told
MINUTES = (10, 20, 30, 40)  # whose top-1 is told
# Of before the project: a dense fused-MBConv network of 4.2 M parameters, AdamW, float32, 410 images/s on 2 cores.
REFERENCE: Row = {"name": "quick reference", "10 min, %": 78.7, "20 min, %": 88.2, "30 min, %": 90.2, "40 min, %": 91.0}
SOURCES = ("as it is", "with rendered images", "balanced by the original's recipe")  # what of a data set is trained on
EPOCHS = 10  # of all recipes
EVALUATE_EVERY = 2  # of them
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
ORIGINAL = {
    "--model": "kkanji_original_b0",
    "--optimizer": "adam",
    "--lr": "1e-3",
    "--augment": "0",
    "--draw-exponent": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A way to train."""

    name: str
    options: dict[str, str]
    images: float = 1.0
    """Share of the images, so that all take about as long; the original's takes longer, to see when it gets where."""
    source: str = "as it is"
    """Which of SOURCES."""

    @property
    def folder(self) -> str:
        """Name of its run's."""
        return self.name.replace(" ", "-").replace("'", "")


def _ours(name: str, *, images: float = 1.0, source: str = SOURCES[0], **changed: str) -> Recipe:
    options = {f"--{option.replace('_', '-')}": value for option, value in changed.items()}
    return Recipe(name=name, options=OURS | options, images=images, source=source)


RECIPES = (
    _ours("ours"),
    _ours("ours, four times as long", images=4.4, full_size_at="0.2", warmup_epochs="0.1", evaluate_every="1"),
    _ours("without augmentation", augment="0", augment_start="0"),
    _ours("augmentation at full strength throughout", augment_start="0.8", unaugmented_epochs="0"),
    _ours("classes drawn as they are", draw_exponent="1"),
    _ours("classes drawn alike", draw_exponent="0"),
    _ours("without averaged weights", ema_images="0"),
    _ours("full size throughout", images=0.6, start_size="64"),
    _ours("AdamW", optimizer="adamw"),
    _ours("cosine head", head="cosine"),
    _ours("mixup", mixup="0.2"),
    _ours("manifold mixup", mixup="0.2", mixup_stages="2"),
    _ours("rendered images of rare characters", source=SOURCES[1]),
    _ours("constant rate", schedule="constant"),
    _ours("float32", images=0.65, precision="float32"),
    Recipe(name="the original's recipe", options=ORIGINAL, images=1.25, source=SOURCES[2]),
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
    """Train by each recipe on the same split and compare accuracy at equal time. Takes hours; goes on where it was.

    Example: python -m benchmarks accuracy --data shards --runs runs/recipes

    Args:
        data: shard set with the splits train and val
        runs: folder for the trainings; those that are there already are taken as they are
        drawn_data: the same split, its rare characters supplemented by `python -m tools render`
        original_data: the same split, balanced by `python -m tools balance --recipe legacy`; the recipes of a set
            that is not given are left out
        images: that our recipe sees; the others as many as take about as long
        only: names of recipes; all if none are given
        threads: of torch
        output: JSON to write
    """
    sets = dict(zip(SOURCES, (data, rendered_data, legacy_data), strict=True))
    chosen = [(recipe, source) for recipe in _recipes(only) if (source := sets[recipe.source])]
    left_out = sorted(set(only) - {recipe.name for recipe, _ in chosen})
    if left_out:
        raise InputError(f"--only {', '.join(left_out)}: needs a set of its own; give --rendered-data or --legacy-data")
    state, rows = environment(), []
    for recipe, source in chosen:
        row = _row(recipe, _train(recipe, source, runs / recipe.folder, images, threads))
        rows.append(row)
        sys.stdout.write(f"{_line(row)}\n")
    options = {"data": read_manifest(data).identity(), "images": images, "threads": threads}
    result = {"benchmark": "accuracy", "options": options, "environment": state, "rows": rows, "marks": marks(rows)}
    write_result(output, result)


def _recipes(names: Sequence[str]) -> list[Recipe]:
    """Those of these names; all if there are none."""
    unknown = set(names) - {recipe.name for recipe in RECIPES}
    if unknown:
        raise InputError(f"--only {', '.join(unknown)}: expected some of: {', '.join(each.name for each in RECIPES)}")
    return [recipe for recipe in RECIPES if recipe.name in names or not names]


def _train(recipe: Recipe, data: Path, run: Path, images: int, threads: int) -> Path:
    """The folder of the finished run."""
    draws = max(1, round(images * recipe.images / EPOCHS / read_manifest(data).classes))
    original = recipe.options is ORIGINAL
    program = ["-m", "benchmarks.accuracy.legacy_network"] if original else [str(ROOT / "launch" / "train.py")]
    given = {"--data": data, "--output": run, "--epochs": EPOCHS, "--batch-size": BATCH, "--order": "balanced"}
    given |= {"--evaluate-every": EVALUATE_EVERY, "--draws-per-class": draws}
    options = given | recipe.options
    command = [sys.executable, *program, *(str(word) for pair in options.items() for word in pair), "--resume"]
    device = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    variables = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)} | device
    if subprocess.run(command, env=variables, check=False, stdout=sys.stderr).returncode:  # noqa: S603
        raise InputError(f"{run}: the training by recipe {recipe.name!r} failed; its messages are above")
    return run


def _row(recipe: Recipe, run: Path) -> Row:
    curve = read_curve(run / "log.jsonl")
    config = read_json(run / "config.json")["config"]
    options = {name: config[name.removeprefix("--").replace("-", "_")] for name in recipe.options}
    times = {f"minutes_to_{mark:.0%}": minutes_to(curve, mark) for mark in MARKS}
    return {"name": recipe.name, **curve[-1], **times, "options": options, "curve": curve}


def read_curve(log: Path) -> Curve:
    """Minutes of training, without those of evaluation, images seen and accuracy, evaluation by evaluation."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    curve, evaluating = [], 0.0
    for entry in {entry["step"]: entry for entry in entries if entry["event"] == "evaluation"}.values():
        figures = {name: entry[name] for name in ("top1", "top5", "balanced_accuracy", "f1_weighted")}
        curve.append({"minutes": (entry["seconds"] - evaluating) / 60, "images_seen": entry["samples"], **figures})
        evaluating += entry["images"] / entry["images_per_s"]
    return curve


def minutes_to(curve: Curve, top1: float) -> float | None:
    """When a curve first reaches an accuracy, on the line between two evaluations; None if it does not."""
    before = {"minutes": 0.0, "top1": 0.0}
    for point in curve:
        if point["top1"] >= top1:
            share = (top1 - before["top1"]) / (point["top1"] - before["top1"])
            return before["minutes"] + share * (point["minutes"] - before["minutes"])
        before = point
    return None


def marks(rows: Sequence[Row]) -> list[Row]:
    """Top-1 after so many minutes of those that took more than the first, beside the reference's.

    Nothing before the first evaluation; a training that ended keeps its last until the next mark.
    """
    told = [row for row in rows if row["curve"][-1]["minutes"] > MINUTES[0]]
    return [REFERENCE, *({"name": row["name"]} | _at_minutes(row["curve"]) for row in told)]


def _at_minutes(curve: Curve) -> dict[str, float | None]:
    minutes, top1 = ([point[name] for point in curve] for name in ("minutes", "top1"))
    known = [minutes[0] <= mark < minutes[-1] + MINUTES[0] for mark in MINUTES]
    found = np.interp(MINUTES, minutes, top1)
    return {
        f"{mark} min, %": 100 * value if there else None
        for mark, value, there in zip(MINUTES, found, known, strict=True)
    }


def figure(result: Row) -> Figure:
    """Accuracy against minutes, a line a recipe."""
    found = Figure(figsize=(9, 5.5), layout="constrained")
    axes = found.subplots()
    for row in result["rows"]:
        minutes, top1 = ([point[name] for point in row["curve"]] for name in ("minutes", "top1"))
        bold = row["name"] in (RECIPES[0].name, RECIPES[-1].name)
        axes.plot(minutes, [100 * value for value in top1], marker=".", linewidth=2.5 if bold else 1, label=row["name"])
    axes.set(xlabel="minutes of training", ylabel="top-1 on the validation split, per cent", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="center right", fontsize="small")
    return found


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table."""
    names = ["top-1", "balanced", "images", "minutes", *(f"minutes to {mark:.0%}" for mark in MARKS)]
    yield "| | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for row in rows:
        yield f"| {row['name']} | " + " | ".join(_cells(row)) + " |"


def _line(row: Row) -> str:
    return f"{row['name']:44}" + "".join(f"{cell:>12}" for cell in _cells(row))


def _cells(row: Row) -> list[str]:
    times = [row[f"minutes_to_{mark:.0%}"] for mark in MARKS]
    reached = ["not reached" if minutes is None else f"{minutes:.1f}" for minutes in times]
    shares = [f"{row[name]:.2%}" for name in ("top1", "balanced_accuracy")]
    return [*shares, f"{row['images_seen']:,}", f"{row['minutes']:.1f}", *reached]
