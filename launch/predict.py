"""Predict characters: `kkanji predict IMAGE_OR_FOLDER...`."""

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from kkanji import cli
from kkanji.pretrained import KUZUSHIJI_KANJI
from kkanji.wording import counted
from shards.errors import InputError, printable

if TYPE_CHECKING:
    from kkanji.inference.predict import Guess, Prediction

CSV_HEAD = "file rank character label probability forms forms_probability unknown doubt error".split()


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Print the most probable characters of image files, each with its probability.

    An image shows one character; any size, gray or colour; light ink on dark or dark on light.

    Example: kkanji predict crop.png --top 3
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, and folders of them."""
    checkpoint: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: the embedded model)")] = KUZUSHIJI_KANJI
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..., or one that `kkanji export` made. The embedded
    model knows 3,832 kanji."""
    top: int = 5
    """Number of characters to print for each image, the most probable first."""
    format: Literal["text", "json", "csv"] = "text"
    """Form of the output: text has a line for each image, json an object on a line for each image, csv a row for each
    character that is printed for an image."""
    max_unreadable: int = 0
    """Number of files that may be unreadable. Each is named, and all others are predicted; with more of them the exit
    code is 1."""

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("no image given; expected files or folders")
        if self.top < 1:
            raise InputError(f"--top {self.top}: expected 1 or more characters")
        if self.max_unreadable < 0:
            raise InputError(f"--max-unreadable {self.max_unreadable}: expected 0 or more files")


def predict(config: PredictConfig) -> None:
    """Write predictions to stdout as they are made, and unreadable files and the speed to stderr.

    Raises InputError if no file could be read, and SystemExit(1) if more were unreadable than are allowed.
    """
    import torch  # takes seconds, which --help does not need

    from kkanji.inference.predict import Predictor, list_images, predict_files

    listing = list_images(config.images)
    predictor = Predictor(config.checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    start, unreadable = perf_counter(), 0
    if config.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerow(CSV_HEAD)
    for prediction in predict_files(predictor, listing.files, top=config.top):
        if prediction.error:
            if len(listing.files) == 1:
                raise InputError(prediction.error)
            unreadable += 1
            sys.stderr.write(f"unreadable: {printable(prediction.error)}\n")
        _write(prediction, config.format)
    sys.stdout.flush()
    seconds, predicted = perf_counter() - start, len(listing.files) - unreadable
    speed = f"{seconds:.2f} s, {predicted / seconds:,.0f} images/s on {predictor.device.type}"
    speed += f"; {unreadable:,} unreadable, {listing.others:,} other files left out"
    sys.stderr.write(f"{counted(predicted, 'image')} in {speed}\n")
    if not predicted:
        raise InputError(f"all {unreadable:,} files are unreadable; expected images of one character each")
    if unreadable > config.max_unreadable:
        allowed = f"--max-unreadable is {config.max_unreadable:,}"
        sys.stderr.write(f"error: {unreadable:,} unreadable, {allowed}; convert them, leave them out or allow more\n")
        sys.exit(cli.PROBLEM)


def _write(prediction: "Prediction", form: str) -> None:
    file = str(prediction.file).encode(errors="backslashreplace").decode()  # a name need not be text
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(_rows(file, prediction))
    elif form == "json":
        guesses = [asdict(guess) for guess in prediction.guesses]
        rest = {"unknown": prediction.unknown, "doubt": prediction.doubt}
        rest |= {"error": prediction.error} if prediction.error else {}
        is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.write(json.dumps({"file": file, "guesses": guesses, **rest}, ensure_ascii=not is_utf8) + "\n")
    elif not prediction.error:
        texts = [*map(_guess_text, prediction.guesses), *([f"[{prediction.doubt}]"] if prediction.doubt else [])]
        sys.stdout.write(f"{printable(file)}  {'  '.join(texts)}\n")


def _guess_text(guess: "Guess") -> str:
    forms = f" ({guess.forms} {guess.forms_probability:.1%})" if guess.forms else ""
    return f"{guess.character} {guess.label} {guess.probability:.1%}{forms}"


def _rows(file: str, prediction: "Prediction") -> Iterable[tuple[object, ...]]:
    if prediction.error:
        return [(file, 0, *[""] * (len(CSV_HEAD) - 3), prediction.error)]
    doubt = (_decimal(prediction.unknown), prediction.doubt or "", "")
    return [(file, rank, *_reading(guess), *doubt) for rank, guess in enumerate(prediction.guesses, start=1)]


def _reading(guess: "Guess") -> tuple[str, ...]:
    probability, sum_of_forms = _decimal(guess.probability), _decimal(guess.forms_probability)
    return guess.character, guess.label, probability, guess.forms, sum_of_forms


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def main() -> None:
    """Run with the options of the command line."""
    predict(cli.parse(PredictConfig))


if __name__ == "__main__":
    cli.run(main)
