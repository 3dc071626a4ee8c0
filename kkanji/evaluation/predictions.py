"""What a model predicted for the images of a split, on the device that did; `evaluation.metrics` measures it."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards import InputError, atomic_file

TOP = 5
KINDS = {
    "position": torch.int64,
    "label": torch.int32,
    "predicted": torch.int32,
    "probability": torch.float32,
    "label_probability": torch.float32,
}
REMEDY = "make it anew with `launch/evaluate.py`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Readings of N images: 56 bytes an image, so 7.7 million of them fit a device (0.4 GB)."""

    position: Tensor
    """int64 [N], where the image lies in the split."""
    label: Tensor
    """int32 [N], the true class."""
    predicted: Tensor
    """int32 [N, 5], the classes held most probable, best first; -1 where there are fewer than five."""
    probability: Tensor
    """float32 [N, 5], of the predicted classes."""
    label_probability: Tensor
    """float32 [N], of the true class."""

    def __len__(self) -> int:
        return len(self.label)

    def wrong(self) -> Tensor:
        """bool [N], whether the first reading is not the true class."""
        return self.predicted[:, 0] != self.label

    def among_top(self) -> Tensor:
        """bool [N], whether the true class is one of the first five readings."""
        return (self.predicted == self.label[:, None]).any(dim=1)

    def save(self, path: Path) -> None:
        """As `predictions.npz`: one array for each field, without pickle."""
        arrays = {field.name: getattr(self, field.name).cpu().numpy() for field in fields(self)}
        with atomic_file(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def load_predictions(path: Path) -> Predictions:
    """Read what `save` wrote. Raises InputError naming the file and what is wrong with it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = {name: torch.from_numpy(arrays[name]).to(kind) for name, kind in KINDS.items()}
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {error}; {REMEDY}") from error
    predictions = Predictions(**columns)
    _check(predictions, path)
    return predictions


def _check(predictions: Predictions, path: Path) -> None:
    count = predictions.label.shape[:1]
    shapes = [tuple(getattr(predictions, name).shape) for name in KINDS]
    expected = [tuple(count), tuple(count), (*count, TOP), (*count, TOP), tuple(count)]
    if shapes != expected or not count:
        found = ", ".join(map(str, shapes))
        raise InputError(f"{path}: arrays of shapes {found}, expected (N,) three times and (N, {TOP}) twice; {REMEDY}")
    if not count[0]:
        raise InputError(f"{path}: no image in it; {REMEDY}")
    stated = (predictions.probability[:, 0], predictions.label_probability)
    if not all(bool(part.isfinite().all()) for part in stated):
        raise InputError(f"{path}: a probability that is not a number; {REMEDY}")
