"""Reading characters in image files with a trained checkpoint."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kkanji import checkpoint
from kkanji.checkpoint.load import load_trained
from kkanji.classes import ClassMap
from kkanji.inference.image_files import SUFFIXES, load_character
from kkanji.pixels import normalise
from kkanji.threads import map_in_order
from shards import InputError

BATCH = 256  # images at a time
THREADS = 4  # that decode the next files while the model reads
Loaded = NDArray[np.uint8] | InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One reading of an image."""

    character: str
    label: str
    """`U+4E00`"""
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What became of a file."""

    file: Path
    guesses: tuple[Guess, ...] = ()
    """The most probable characters, best first."""
    error: str | None = None
    """Why the file could not be read; then there are no guesses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Image files to be read."""

    files: tuple[Path, ...]
    others: int
    """Files in the folders that are no images by their names, and left out."""


class Predictor:
    """A trained model on a device."""

    def __init__(self, path: Path, device: torch.device) -> None:
        model = load_trained(path)
        self.classes: ClassMap = checkpoint.read_classes(path)
        self.temperature = float(checkpoint.read_state(path).get("temperature", 1.0))  # fitted before launch/export.py
        self.device = device
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8], top: int) -> list[tuple[Guess, ...]]:
        """The `top` most probable characters of each image; images [n, 64, 64], white ink on black."""
        pixels = torch.from_numpy(images).to(self.device)[:, None]
        probability = (self.model(normalise(pixels)).float() / self.temperature).softmax(dim=1)
        best = probability.topk(min(top, len(self.classes)), dim=1)
        return [
            tuple(self._guess(number, value) for number, value in zip(numbers, values, strict=True))
            for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _guess(self, number: int, probability: float) -> Guess:
        return Guess(
            character=self.classes.characters[number], label=self.classes.labels[number], probability=probability
        )


def list_images(paths: Sequence[Path]) -> Listing:
    """The files among the paths, and the images in the folders among them, at any depth, in the order of their names.

    Raises InputError for a folder without an image.
    """
    files: list[Path] = []
    others = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(part for part in path.rglob("*") if part.is_file())
        images = [part for part in inside if part.suffix.lower() in SUFFIXES]
        if not images:
            found = f"{len(inside)} files, none of them named as an image"
            raise InputError(f"{path}: {found}; expected {', '.join(sorted(SUFFIXES))}")
        files += images
        others += len(inside) - len(images)
    return Listing(files=tuple(files), others=others)


def predict_files(reader: Predictor, files: Sequence[Path], *, top: int) -> Iterator[Prediction]:
    """Every file's reading, in the files' order; the next batch is decoded while the model reads one."""
    with ThreadPoolExecutor(THREADS) as pool:
        loaded = map_in_order(pool, _load, files, ahead=BATCH)
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            yield from _predict_batch(reader, batch, list(islice(loaded, len(batch))), top)


def _load(file: Path) -> Loaded:
    try:
        return load_character(file)
    except InputError as error:
        return error


def _predict_batch(reader: Predictor, files: Sequence[Path], loaded: Sequence[Loaded], top: int) -> list[Prediction]:
    images = [item for item in loaded if not isinstance(item, InputError)]
    guesses = iter(reader.read(np.stack(images), top) if images else [])
    return [
        Prediction(file=file, error=str(item))
        if isinstance(item, InputError)
        else Prediction(file=file, guesses=next(guesses))
        for file, item in zip(files, loaded, strict=True)
    ]
