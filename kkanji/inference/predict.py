"""Predict the characters in image files with a trained checkpoint."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kkanji import checkpoint
from kkanji.checkpoint.load import load_to_predict
from kkanji.checkpoint.neighbours import has_neighbours, read_settings, with_neighbours
from kkanji.classes import ClassMap
from kkanji.environment import choose_kernels
from kkanji.inference.boxes import Box, cut
from kkanji.inference.image_files import load_character, load_page, read_character
from kkanji.inference.listing import Page
from kkanji.neighbours.unknown import describe
from kkanji.neighbours.vote import WithNeighbours
from kkanji.pixels import normalise
from kkanji.threads import map_in_order
from kkanji.variants import family_numbers, forms
from shards import InputError

BATCH = 256  # images at a time
THREADS = 4  # that decode the next files while the model predicts
Loaded = NDArray[np.uint8] | InputError
Item = Path | Page | Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One candidate for the character in an image."""

    character: str
    """The character itself."""
    label: str
    """Its code point, such as `U+4E00`."""
    probability: float
    """Its probability, from 0 to 1."""
    forms: str = ""
    """All forms of the character that the model knows, this one included, such as `来來`; empty if it has one form."""
    forms_probability: float | None = None
    """The sum of their probabilities; None if the character has one form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The result for one file: guesses or an error."""

    file: Path
    """The image file."""
    box: Box | None = None
    """The part of it that was read; None for the whole image."""
    page: int | None = None
    """The page of it that was read, from 1 on; None for a file with one page."""
    guesses: tuple[Guess, ...] = ()
    """The most probable characters, best first; empty if there is an error."""
    unknown: float | None = None
    """Score from 0 to 1 that the image shows none of the model's characters; None if the model cannot say."""
    doubt: str | None = None
    """Why the image probably shows none of the model's characters, in words; None if it probably shows one."""
    error: str | None = None
    """Why the file could not be read; None if it could."""


class Judged(NamedTuple):
    """What a model says of one image."""

    guesses: tuple[Guess, ...]
    unknown: float | None = None
    doubt: str | None = None


class Predictor:
    """A trained model on a device."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """path: a checkpoint folder. Raises InputError if it is missing or damaged."""
        choose_kernels(benchmark=False)  # the number of images changes
        network = load_to_predict(path)
        voting = has_neighbours(path)
        self.judge = read_settings(path).unknown if voting else None
        self.classes: ClassMap = checkpoint.read_classes(path)
        self._characters, self._labels = self.classes.characters, self.classes.labels
        self._families = torch.from_numpy(family_numbers(self.classes.characters)).to(device)
        self.forms: tuple[str, ...] = forms(self.classes.characters)
        stored: float = checkpoint.read_state(path).get("temperature", 1.0)  # only exported models have one
        self.temperature = 1.0 if voting else stored  # the mix contains it
        self.device = device
        self.model = with_neighbours(path, network).to(device).to(memory_format=torch.channels_last).eval()

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Guess, ...]]:
        """The `top` most probable characters of each image. Images are [n, 64, 64], white ink on black."""
        return [view.guesses for view in self.judged(images, top)]

    @torch.inference_mode()
    def judged(self, images: NDArray[np.uint8], top: int) -> list[Judged]:
        """As `predict`, each with the score that the image shows none of the model's characters."""
        pixels = normalise(torch.from_numpy(images).to(self.device)[:, None])
        if not isinstance(self.model, WithNeighbours):
            logits = self.model(pixels)
            return [Judged(guesses) for guesses in self._guesses(logits, top)]
        reading = self.model.read(pixels)
        guesses = self._guesses(reading.log_probabilities, top)
        if self.judge is None:
            return [Judged(each) for each in guesses]
        features = describe(reading, images)
        verdicts = (guesses, self.judge.scores(features).tolist(), self.judge.reasons(features))
        return [Judged(*each) for each in zip(*verdicts, strict=True)]

    def _guesses(self, logits: Tensor, top: int) -> list[tuple[Guess, ...]]:
        probability = (logits.float() / self.temperature).softmax(dim=1)
        best = probability.topk(min(top, len(self.classes)), dim=1)
        by_family = torch.zeros_like(probability).index_add(1, self._families, probability)
        sums = by_family.gather(1, self._families[best.indices])
        columns = (best.indices.tolist(), best.values.tolist(), sums.tolist())
        return [tuple(map(self._guess, *rows)) for rows in zip(*columns, strict=True)]

    def _guess(self, number: int, probability: float, forms_probability: float) -> Guess:
        return Guess(
            character=self._characters[number],
            label=self._labels[number],
            probability=probability,
            forms=self.forms[number],
            forms_probability=forms_probability if self.forms[number] else None,
        )


def predict_files(predictor: Predictor, files: Sequence[Item], *, top: int) -> Iterator[Prediction]:
    """Predict every file or box, in the order given. While the model works on one batch, threads decode the next."""
    with ThreadPoolExecutor(THREADS) as pool:
        loaded = map_in_order(pool, _load, files, ahead=BATCH)
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            yield from _predict_batch(predictor, batch, list(islice(loaded, len(batch))), top)


def _load(file: Item) -> Loaded:
    """The pixels, or the error: an exception in the pool would end the predictions for all files."""
    try:
        if isinstance(file, Page):
            return load_page(file.file, file.number)
        return read_character(cut(file), str(file)) if isinstance(file, Box) else load_character(file)
    except InputError as error:
        return error


def _predict_batch(predictor: Predictor, files: Sequence[Item], loaded: Sequence[Loaded], top: int) -> list[Prediction]:
    images = [item for item in loaded if not isinstance(item, InputError)]
    found = iter(predictor.judged(np.stack(images), top) if images else [])
    return [
        Prediction(**_place(file), error=str(item))
        if isinstance(item, InputError)
        else Prediction(**_place(file), **next(found)._asdict())
        for file, item in zip(files, loaded, strict=True)
    ]


def _place(file: Item) -> dict[str, Any]:
    if isinstance(file, Page):
        return {"file": file.file, "page": file.number}
    return {"file": file.file, "box": file} if isinstance(file, Box) else {"file": file}
