"""Arrays as the legacy project wrote them: images.npy, labels.npy and index.json in one folder.

    images.npy  uint8 [N, 64, 64]      labels.npy  integers [N]      index.json  {"codepoint_to_id": {"あ (U+3042)": 0}}

They hold augmented images and do not record the original of each, so their lineage is unknown. The legacy project's
class folders are read by tools/ingest/sources.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kkanji.classes import read_class_map
from shards import IMAGE_SIZE
from shards.array_reading import map_array
from shards.checksums import file_digest
from shards.errors import InputError
from shards.format.manifest import CLASSES_NAME
from tools.ingest.originals import IMAGES_NAME
from tools.ingest.sources import Found, Source

LABELS_NAME = "labels.npy"
REMEDY = "copy it again, or write it with numpy.save"


@dataclass(frozen=True, kw_only=True, slots=True)
class LegacyArrays(Source):
    """A folder with the three files."""

    @property
    def title(self) -> str:
        """See Source."""
        return self.name

    def identities(self) -> list[tuple[str, str]]:
        """See Source."""
        names = (IMAGES_NAME, LABELS_NAME, CLASSES_NAME)
        return [(f"{self.name}/{name}", file_digest(self.path / name)) for name in names]

    def classes(self) -> tuple[int, ...]:
        """See Source."""
        return read_class_map(self.path).code_points

    def images(self) -> Iterator[Found]:
        """See Source."""
        images = _load(self.path / IMAGES_NAME)
        expected = (len(images) if images.ndim else 0, IMAGE_SIZE, IMAGE_SIZE)
        if images.dtype != np.uint8 or images.shape != expected:
            raise InputError(
                f"{self.path / IMAGES_NAME}: {images.dtype} {images.shape}, expected uint8 (N, 64, 64); {REMEDY}"
            )
        classes = np.array(self.classes())
        code_points = classes[self._labels(len(images), len(classes))]
        for row, pixels in enumerate(images):
            yield Found(f"{IMAGES_NAME}[{row}]", int(code_points[row]), pixels.tobytes())

    def _labels(self, count: int, classes: int) -> NDArray[np.int64]:
        path = self.path / LABELS_NAME
        labels = _load(path)
        if labels.dtype.kind not in "iu" or labels.shape != (count,):
            found = f"{labels.dtype} {labels.shape}"
            raise InputError(f"{path}: {found}, expected whole numbers ({count},), one an image; {REMEDY}")
        numbers = labels.astype(np.int64)
        wrong = np.flatnonzero((numbers < 0) | (numbers >= classes))
        if len(wrong):
            found = f"label {numbers[wrong[0]]} in row {wrong[0]}"
            raise InputError(f"{path}: {found}, expected 0 to {classes - 1} as {CLASSES_NAME} has classes; {REMEDY}")
        return numbers


def has_arrays(folder: Path) -> bool:
    """Whether a folder holds arrays, rather than images by class."""
    return (folder / IMAGES_NAME).is_file()


def _load(path: Path) -> NDArray[np.generic]:
    """An array mapped from disk. Raises InputError if the file is no NumPy array."""
    try:
        return map_array(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected an array in NumPy's format: {REMEDY}") from error
