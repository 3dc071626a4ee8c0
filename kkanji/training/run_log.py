"""The output of a running training: lines for people, `log.jsonl` for machines, TensorBoard, a progress bar."""

import csv
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kkanji.cli import drop_output
from kkanji.config import read_options, strict_json
from kkanji.evaluation.metrics import ClassCounts, count_by_class
from kkanji.evaluation.predictions import Predictions
from kkanji.report import ImagesOf, confusion_sheet
from kkanji.tracking.board import Board
from kkanji.tracking.trackers import Trackers
from kkanji.variants import family_numbers
from kkanji.wording import duration
from shards import write_file

LOG_NAME, CLASSES, CONFIG = "log.jsonl", "classes.csv", "config.json"
AXES = ("epoch", "epochs", "seconds", "left_s")  # of a log line: no curves
CLASS_COLUMNS = ("code point", "character", "training originals", "images", "right", "predicted")
LINE = (
    "step {step} of {steps}  epoch {epoch:.2f} of {epochs}  loss {loss:.4f}  top-1 {top1:.2%}  lr {lr:.2e}  "
    "{images_per_s:,.0f} images/s  waited {wait_fraction:.1%}  passed {passed}  left {left}"
)
STREAMING = (
    "  fetched {fetched_mb_per_s:,.0f} MB/s  {shards_ahead:.0f} shards ahead  {cache_hits:.0f} hits  "
    "{cache_misses:.0f} misses  {refetched:.0f} refetched  {retries:.0f} retries"
)
EVALUATION = (
    "epoch {epoch:.2f}  evaluated {images:,} images of {split}: loss {loss:.4f}  top-1 {top1:.2%}  top-5 {top5:.2%}  "
    "balanced {balanced_accuracy:.2%}  weighted F1 {f1_weighted:.4f}"
)


class RunLog:
    """The log of one run, on the main process only: `enabled` false makes every call do nothing."""

    def __init__(
        self,
        run: Path,
        *,
        total_images: int,
        seen_images: int,
        seen_steps: int = 0,
        enabled: bool,
        options: Mapping[str, Any],
        log_with: Sequence[str] = (),
    ) -> None:
        """seen_images, seen_steps: trained on so far, the position of the last points to keep.

        options: of the run, for TensorBoard and the trackers. log_with: trackers beside TensorBoard. Raises InputError
        if one does not start.
        """
        self.enabled = enabled
        self.problem: OSError | None = None
        """Why the log ended early, such as a full disk or a reader of the output that has left. The run should too."""
        if not enabled:
            return
        run.mkdir(parents=True, exist_ok=True)
        self._run = run
        _drop_cut_line(run / LOG_NAME)
        self._file = (run / LOG_NAME).open("a", encoding="utf-8", buffering=1)
        flat = read_options(options)
        self._board = Board(run, flat, images=seen_images, steps=seen_steps)
        self._trackers = Trackers(log_with, run)
        self._trackers.options(flat)
        self._bar = tqdm(total=total_images, initial=seen_images, unit=" images", disable=not sys.stderr.isatty())

    def step(self, **values: Any) -> None:
        """Log a training step; values are named as in LINE and `log.jsonl`."""
        if self.enabled:
            line = LINE + STREAMING if "fetched_bytes" in values else LINE
            times = {"passed": duration(values["seconds"]), "left": duration(values["left_s"])}
            self._write("step", "train", values, line.format(**values, **times))

    def evaluation(self, *, bins: Sequence[Mapping[str, Any]] = (), **values: Any) -> None:
        """Log the measures of an evaluation; bins: as in `summarise`, for curves only."""
        if self.enabled:
            self._write("evaluation", values["split"], values, EVALUATION.format(**values))
            with self._kept():
                named = {
                    each["training_images"].replace("+", " or more"): each["top1"] for each in bins if each["images"]
                }
                self._add_scalars(f"{values['split']}_top1_by_training_originals", named, values)

    def predictions(
        self,
        split: str,
        at: Mapping[str, Any],
        predictions: Predictions,
        *,
        characters: Sequence[str],
        training_counts: NDArray[np.int64],
        images_of: ImagesOf,
    ) -> None:
        """Show an evaluation class by class; arguments of `write_report`.

        TensorBoard has its confusions, how recall is spread over the classes and the precision-recall curve,
        `classes.csv` a line for each class. at: the position, as in log lines.
        """
        if not self.enabled:
            return
        with self._kept():
            images, step = at["samples"], at["step"]
            counts = count_by_class(predictions, family_numbers(characters))
            write_file(self._run / CLASSES, _class_table(counts, characters, training_counts))
            self._board.accepted(split, predictions, images)
            self._board.spread(f"{split}/recall_of_classes", _recalls(counts), images)
            sheet = confusion_sheet(
                predictions, characters=characters, training_counts=training_counts, images_of=images_of
            )
            if sheet is not None:
                self._board.picture(f"{split}/confusions", sheet, images)
                self._trackers.picture(f"{split}/confusions", sheet, step)

    def note(self, event: str, text: str, **values: Any) -> None:
        """Log anything else: start, resume, checkpoint."""
        if self.enabled:
            with self._kept():
                self._file.write(strict_json({"event": event, **values}) + "\n")
                self._say(text)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            self._trackers.files(self._run / CONFIG, self._run / CLASSES)
            self._trackers.finish()
            for each in (self._bar, self._board, self._file):
                with self._kept():
                    each.close()

    def _write(self, event: str, group: str, values: dict[str, Any], text: str) -> None:
        with self._kept():
            self._file.write(strict_json({"event": event, **values}) + "\n")
            self._say(text)
            self._bar.update(values["samples"] - self._bar.n)
            self._add_scalars(group, values, values)

    def _add_scalars(self, group: str, values: Mapping[str, Any], at: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in values.items() if name not in AXES and _is_number(value)}
        self._board.scalars(group, numbers, images=at["samples"], step=at["step"])
        tagged = {f"{group}/{name}": value for name, value in numbers.items()}
        self._trackers.scalars({**tagged, "images": at["samples"], "epoch": at["epoch"]}, at["step"])

    def _say(self, text: str) -> None:
        try:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            drop_output()
            raise

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error for the run to find: it has something to save first."""
        try:
            yield
        except OSError as error:
            self.problem = self.problem or error


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _recalls(counts: ClassCounts) -> NDArray[np.float64]:
    """Of the classes with an image."""
    there = counts.images > 0
    return np.asarray(counts.right[there] / counts.images[there])


def _class_table(counts: ClassCounts, characters: Sequence[str], trained: NDArray[np.int64]) -> str:
    """A line for each class, as CSV. Classes with names of their own have no code point that means anything."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CLASS_COLUMNS)
    columns = (trained, counts.images, counts.right, counts.predicted)
    for character, *row in zip(characters, *(column.tolist() for column in columns), strict=True):
        table.writerow([f"U+{ord(character):04X}" if len(character) == 1 else "", character, *row])
    return text.getvalue()


def has_event(path: Path, event: str) -> bool:
    """Whether a log has an entry of this kind."""
    start = f'{{"event": "{event}"'.encode()
    with path.open("rb") as file:
        return any(line.startswith(start) for line in file)


def _drop_cut_line(path: Path) -> None:
    """Remove the half line that a killed run can leave at the end, so that the next line starts a new one."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
