"""Predict the characters in image files with a trained checkpoint."""

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
from kkanji.environment import choose_kernels
from kkanji.inference.image_files import SUFFIXES, load_character
from kkanji.pixels import normalise
from kkanji.threads import map_in_order
from shards import InputError

BATCH = 256  # images at a time
THREADS = 4  # that decode the next files while the model predicts
Loaded = NDArray[np.uint8] | InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One candidate for the character in an image."""

    character: str
    """The character itself."""
    label: str
    """Its code point, such as `U+4E00`."""
    probability: float
    """Its probability, from 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The result for one file: guesses or an error."""

    file: Path
    """The image file."""
    guesses: tuple[Guess, ...] = ()
    """The most probable characters, best first; empty if there is an error."""
    error: str | None = None
    """Why the file could not be read; None if it could."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The image files found in paths that a user gave."""

    files: tuple[Path, ...]
    """Image files, in the order of the paths and of the names in each folder."""
    others: int
    """Number of files in the folders that were left out, as their names are not those of images."""


class Predictor:
    """A trained model on a device."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """path: a checkpoint folder. Raises InputError if it is missing or damaged."""
        choose_kernels(benchmark=False)  # the number of images changes
        model = load_trained(path)
        self.classes: ClassMap = checkpoint.read_classes(path)
        self.temperature = float(checkpoint.read_state(path).get("temperature", 1.0))  # only exported models have one
        self.device = device
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Guess, ...]]:
        """The `top` most probable characters of each image. Images are [n, 64, 64], white ink on black."""
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
    """List the given files, and the images at any depth in the given folders, sorted by name.

    Files given by name are taken whatever their suffix. Raises InputError for a folder without an image.
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


def predict_files(predictor: Predictor, files: Sequence[Path], *, top: int) -> Iterator[Prediction]:
    """Predict every file, in the order given. While the model works on one batch, threads decode the next."""
    with ThreadPoolExecutor(THREADS) as pool:
        loaded = map_in_order(pool, _load, files, ahead=BATCH)
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            yield from _predict_batch(predictor, batch, list(islice(loaded, len(batch))), top)


def _load(file: Path) -> Loaded:
    """The pixels, or the error: an exception in the pool would end the predictions for all files."""
    try:
        return load_character(file)
    except InputError as error:
        return error


def _predict_batch(predictor: Predictor, files: Sequence[Path], loaded: Sequence[Loaded], top: int) -> list[Prediction]:
    images = [item for item in loaded if not isinstance(item, InputError)]
    guesses = iter(predictor.predict(np.stack(images), top) if images else [])
    return [
        Prediction(file=file, error=str(item))
        if isinstance(item, InputError)
        else Prediction(file=file, guesses=next(guesses))
        for file, item in zip(files, loaded, strict=True)
    ]
