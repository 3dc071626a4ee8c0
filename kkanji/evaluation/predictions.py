"""A model's predictions for the images of a split, on the device that made them, and as the file `predictions.npz`."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards import InputError, atomic_file

TOP = 5  # most probable classes that are kept of each image
KINDS = {  # type of each array in the file
    "position": torch.int64,
    "label": torch.int32,
    "predicted": torch.int32,
    "probability": torch.float32,
    "label_probability": torch.float32,
}
REMEDY = "write it again with `kkanji evaluate`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Predictions for N images. One takes 56 bytes, so those of 7.7 million images (0.4 GB) fit a device."""

    position: Tensor
    """Positions of the images in the split, int64 [N]."""
    label: Tensor
    """True classes, int32 [N]."""
    predicted: Tensor
    """The five most probable classes, best first, int32 [N, 5]; -1 if the model has fewer classes."""
    probability: Tensor
    """Probabilities of the predicted classes, float32 [N, 5]."""
    label_probability: Tensor
    """Probabilities of the true classes, float32 [N]."""

    def __len__(self) -> int:
        return len(self.label)

    def wrong(self) -> Tensor:
        """Whether the most probable class is not the true class, bool [N]."""
        return self.predicted[:, 0] != self.label

    def among_top(self) -> Tensor:
        """Whether the true class is among the five most probable classes, bool [N]."""
        return (self.predicted == self.label[:, None]).any(dim=1)

    def save(self, path: Path) -> None:
        """Write `predictions.npz`: one array for each field, without pickle."""
        arrays = {field.name: getattr(self, field.name).cpu().numpy() for field in fields(self)}
        with atomic_file(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def load_predictions(path: Path) -> Predictions:
    """Read a file that `save` wrote. Raises InputError if it is damaged or not such a file."""
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
        raise InputError(f"{path}: arrays of shapes {found}; expected (N,) three times and (N, {TOP}) twice; {REMEDY}")
    if not count[0]:
        raise InputError(f"{path}: holds no image; {REMEDY}")
    # The measures use only these two arrays.
    probabilities = (predictions.probability[:, 0], predictions.label_probability)
    if not all(bool(part.isfinite().all()) for part in probabilities):
        raise InputError(f"{path}: holds a probability that is not a number; {REMEDY}")
