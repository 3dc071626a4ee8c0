"""TensorBoard: the same measures over images and over steps, options, confusions, how recall is spread over classes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from kkanji.evaluation.calibration import accept
from kkanji.evaluation.predictions import Predictions

FOLDER, BY_STEP = "tensorboard", "by_step"
EVENTS = "events.out.tfevents."  # a file's name goes on with the second of its start, in ten digits
THRESHOLDS = 101  # of the precision-recall curve
MEASURED = {"val/top1": 0.0, "val/balanced_accuracy": 0.0}  # columns of the table of hyperparameters


class Board:
    """TensorBoard's files of one run. Their points lie over images, and over optimizer steps in a folder below."""

    def __init__(self, run: Path, options: Mapping[str, Any], *, images: int, steps: int) -> None:
        """options: of the run, by their names. images, steps: trained on so far, the last points to keep.

        TensorBoard drops points at `purge_step` and later; the one at the checkpoint itself was logged before it.
        """
        for folder in (run / FOLDER, run / FOLDER / BY_STEP):
            _put_before(folder, int(time.time()))
        self._board = SummaryWriter(str(run / FOLDER), purge_step=images + 1)
        self._by_step = SummaryWriter(str(run / FOLDER / BY_STEP), purge_step=steps + 1)
        self._board.add_text("options", _markdown_table(options), images)
        for summary in hparams({name: _plain(value) for name, value in options.items()}, MEASURED):
            self._board._get_file_writer().add_summary(summary)  # add_hparams makes a run of its own for each start

    def scalars(self, group: str, values: Mapping[str, float], *, images: int, step: int) -> None:
        """Add a point to each curve, on disk when this returns: a run killed from here on does not log it again."""
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, images)
            self._by_step.add_scalar(f"{group}_by_step/{name}", value, step)
        self._board.flush()
        self._by_step.flush()

    def accepted(self, split: str, predictions: Predictions, images: int) -> None:
        """Precision and recall when only predictions of at least some probability are accepted."""
        rows = accept(predictions, np.linspace(0, 1, THRESHOLDS).tolist())
        right, accepted = (np.array([getattr(row, name) for row in rows]) for name in ("right", "images"))
        precision, recall = np.divide(right, accepted, np.ones(len(rows)), where=accepted > 0), right / len(predictions)
        # Every image should be predicted, so there are no true negatives.
        counts = (right, accepted - right, np.zeros_like(right), len(predictions) - right)
        tag = f"{split}/accepted_predictions"
        self._board.add_pr_curve_raw(tag, *counts, precision, recall, images, num_thresholds=THRESHOLDS)

    def spread(self, tag: str, values: NDArray[np.float64], images: int) -> None:
        """A histogram, of the recall of classes for example, [n]."""
        self._board.add_histogram(tag, values, images)

    def picture(self, tag: str, picture: NDArray[np.uint8], images: int) -> None:
        """A picture [H, W, 3]."""
        self._board.add_image(tag, picture, images, dataformats="HWC")

    def close(self) -> None:
        """End the files."""
        self._board.close()
        self._by_step.close()


def _put_before(folder: Path, second: int) -> None:
    """Rename the files of earlier starts so that a file of this second follows them.

    TensorBoard reads a run's files by their names, which begin with the second of their start, and drops from each
    one what the next begins anew. After a start in the same second, or on a machine whose clock is behind, it would
    drop the new points and keep the old ones.
    """
    for path in sorted(folder.glob(f"{EVENTS}*"), reverse=True):
        begun, _, rest = path.name.removeprefix(EVENTS).partition(".")
        if not begun.isdecimal() or int(begun) < second:
            return
        second -= 1
        path.rename(path.with_name(f"{EVENTS}{second:010d}.{rest}"))


def _plain(value: Any) -> int | float | str:
    """A bool as a word: torch writes it as a number, and the table then asks for its least and largest value."""
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value)


def _markdown_table(options: Mapping[str, Any]) -> str:
    """TensorBoard renders texts as Markdown; code spans keep paths and names as they are."""
    cells = ((str(value).replace("`", "'").replace("|", "\\|") for value in option) for option in options.items())
    rows = (f"| `{name}` | `{value}` |" for name, value in cells)
    return "\n".join(["| option | value |", "|---|---|", *rows])
