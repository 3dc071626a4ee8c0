"""Read characters: `python launch/predict.py IMAGE_OR_FOLDER... --checkpoint runs/first/checkpoints/best`."""

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
import tyro

from kkanji import cli
from kkanji.inference.predict import Prediction, Predictor, list_images, predict_files
from shards import InputError

PRETRAINED = Path(__file__).parents[1] / "models" / "kuzushiji-kanji"
CSV_HEAD = ("file", "rank", "character", "label", "probability", "error")


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Print the most probable characters of image files, each with its probability.

    An image shows one character; any size, gray or colour; light ink on dark or dark on light.

    Example: python launch/predict.py crop.png --top 3
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, and folders of them."""
    checkpoint: Path = PRETRAINED
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..., or one that launch/export.py made."""
    top: int = 5
    """Characters for each image."""
    format: Literal["text", "json", "csv"] = "text"
    """text: a line an image. json: an object a line. csv: a row for each character of an image."""
    max_unreadable: int = 0
    """Files that may turn out to be no readable image; each is named, and one more ends the run."""

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("no image given; expected files or folders")
        if self.top < 1 or self.max_unreadable < 0:
            found = f"--top {self.top} --max-unreadable {self.max_unreadable}"
            raise InputError(f"{found}: expected 1 or more characters, 0 or more files")


def predict(config: PredictConfig) -> None:
    """Results go to stdout while files are read; what became of the files goes to stderr."""
    listing = list_images(config.images)
    reader = Predictor(config.checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    start, unreadable = perf_counter(), 0
    if config.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerow(CSV_HEAD)
    for reading in predict_files(reader, listing.files, top=config.top):
        if reading.error:
            unreadable += 1
            if unreadable > config.max_unreadable:
                raise InputError(f"{reading.error}; or give --max-unreadable to go on without such files")
            sys.stderr.write(f"unreadable: {reading.error}\n")
        _write(reading, config.format)
    sys.stdout.flush()
    seconds, read = perf_counter() - start, len(listing.files) - unreadable
    speed = f"{read:,} images in {seconds:.2f} s, {read / seconds:,.0f} images/s on {reader.device.type}"
    sys.stderr.write(f"{speed}; {unreadable:,} unreadable, {listing.others:,} other files left out\n")


def _write(reading: Prediction, form: str) -> None:
    file = str(reading.file).encode(errors="replace").decode()  # a name need not be text
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(file, reading))
    elif form == "json":
        guesses = [asdict(guess) for guess in reading.guesses]
        error = {"error": reading.error} if reading.error else {}
        sys.stdout.write(json.dumps({"file": file, "guesses": guesses, **error}, ensure_ascii=False) + "\n")
    elif not reading.error:
        guesses_text = (f"{guess.character} {guess.label} {guess.probability:.1%}" for guess in reading.guesses)
        sys.stdout.write(f"{file}  {'  '.join(guesses_text)}\n")


def _rows(file: str, reading: Prediction) -> Iterable[tuple[object, ...]]:
    if reading.error:
        return [(file, 0, "", "", "", reading.error)]
    return [
        (file, rank, guess.character, guess.label, f"{guess.probability:.6f}", "")
        for rank, guess in enumerate(reading.guesses, start=1)
    ]


if __name__ == "__main__":
    cli.run(lambda: predict(cli.parse(PredictConfig)))
