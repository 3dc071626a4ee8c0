"""The output of a running training: lines for people, `log.jsonl` for machines, TensorBoard, a progress bar."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from kkanji.cli import drop_output
from kkanji.config import strict_json
from kkanji.evaluation.calibration import accept
from kkanji.evaluation.predictions import Predictions
from kkanji.report import ImagesOf, confusion_sheet
from kkanji.wording import duration

LOG_NAME = "log.jsonl"
THRESHOLDS = 101  # of the precision-recall curve
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
        self, run: Path, *, total_images: int, seen_images: int, enabled: bool, options: Mapping[str, Any]
    ) -> None:
        """seen_images: images trained on so far, the position of the last point to keep. options: for TensorBoard."""
        self.enabled = enabled
        self.problem: OSError | None = None
        """Why the log ended early, such as a full disk or a reader of the output that has left. The run should too."""
        if not enabled:
            return
        run.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(run / LOG_NAME)
        self._file = (run / LOG_NAME).open("a", encoding="utf-8", buffering=1)
        # TensorBoard drops points at `purge_step` and later; the one at the checkpoint itself was logged before it.
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=seen_images + 1)
        self._board.add_text("options", _markdown_table(options), seen_images)
        self._bar = tqdm(total=total_images, initial=seen_images, unit=" images", disable=not sys.stderr.isatty())

    def step(self, **values: Any) -> None:
        """Log a training step; values are named as in LINE and `log.jsonl`."""
        if self.enabled:
            line = LINE + STREAMING if "fetched_bytes" in values else LINE
            times = {"passed": duration(values["seconds"]), "left": duration(values["left_s"])}
            self._write("step", "train", values, line.format(**values, **times))

    def evaluation(self, **values: Any) -> None:
        """Log the metrics of an evaluation."""
        if self.enabled:
            self._write("evaluation", values["split"], values, EVALUATION.format(**values))

    def predictions(
        self,
        split: str,
        samples: int,
        predictions: Predictions,
        *,
        characters: Sequence[str],
        training_counts: NDArray[np.int64],
        images_of: ImagesOf,
    ) -> None:
        """Add an evaluation's confusions and precision-recall curve to TensorBoard; arguments of `write_report`."""
        if not self.enabled:
            return
        with self._kept():
            self._add_curve(f"{split}/accepted_predictions", predictions, samples)
            sheet = confusion_sheet(
                predictions, characters=characters, training_counts=training_counts, images_of=images_of
            )
            if sheet is not None:
                self._board.add_image(f"{split}/confusions", sheet, samples, dataformats="HWC")

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
            for each in (self._bar, self._board, self._file):
                with self._kept():
                    each.close()

    def _add_curve(self, tag: str, predictions: Predictions, samples: int) -> None:
        """Precision and recall when only predictions of at least some probability are accepted."""
        rows = accept(predictions, np.linspace(0, 1, THRESHOLDS).tolist())
        right, accepted = (np.array([getattr(row, name) for row in rows]) for name in ("right", "images"))
        precision, recall = np.divide(right, accepted, np.ones(len(rows)), where=accepted > 0), right / len(predictions)
        # Every image should be predicted, so there are no true negatives.
        counts = (right, accepted - right, np.zeros_like(right), len(predictions) - right)
        self._board.add_pr_curve_raw(tag, *counts, precision, recall, samples, num_thresholds=THRESHOLDS)

    def _write(self, event: str, group: str, values: dict[str, Any], text: str) -> None:
        with self._kept():
            self._file.write(strict_json({"event": event, **values}) + "\n")
            self._say(text)
            self._bar.update(values["samples"] - self._bar.n)
            self._add_scalars(group, values)

    def _add_scalars(self, group: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, float) and math.isfinite(value) and name not in ("epoch", "seconds", "left_s"):
                self._board.add_scalar(f"{group}/{name}", value, values["samples"])
        self._board.flush()  # a run killed from here on has its last point; a resume does not log it again

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


def _markdown_table(options: Mapping[str, Any]) -> str:
    """TensorBoard renders texts as Markdown; code spans keep paths and names as they are."""
    cells = ((str(value).replace("`", "'").replace("|", "\\|") for value in option) for option in options.items())
    rows = (f"| `{name}` | `{value}` |" for name, value in cells)
    return "\n".join(["| option | value |", "|---|---|", *rows])


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
