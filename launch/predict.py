"""Predict characters: `kkanji predict IMAGE_OR_FOLDER...`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import tyro

from kkanji import cli
from kkanji.inference.boxes import by_page, read_boxes
from kkanji.inference.forms import BOM, Form, form
from kkanji.inference.listing import Listing, Page, every_page, list_images
from kkanji.inference.output_file import ResultFile, refuse_existing
from kkanji.inference.page_xml import PageKey, Written, page_key
from kkanji.inference.progress import Progress
from kkanji.pretrained import KUZUSHIJI_KANJI
from kkanji.wording import counted
from shards.errors import InputError, printable
from shards.json_reading import read_bounded

if TYPE_CHECKING:
    from kkanji.inference.predict import Item, Predictor

BY_SUFFIX = {
    **{".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"},
    **{".alto.xml": "alto", ".xml": "tei"},  # the longer suffix first
}
FormName = Literal["text", "json", "csv", "tei", "alto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Print the most probable characters of image files, each with its probability.

    An image shows one character; any size, gray or colour; light ink on dark or dark on light.

    Example: kkanji predict crop.png --top 3
    """

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files, and folders of them."""
    checkpoint: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: the embedded model)")] = KUZUSHIJI_KANJI
    """Folder of a checkpoint: RUN/checkpoints/best, last or step-..., or one that `kkanji export` made. The embedded
    model knows 3,832 kanji and no kana."""
    top: int = 5
    """Number of characters to print for each image, the most probable first."""
    boxes: Path | None = None
    """Boxes of characters on page images, which are read instead of whole images: CSV (file,x,y,w,h or file,region),
    COCO JSON, or IIIF annotations. IMAGES are the pages; without them, files from the folder of the boxes on."""
    output: Path | None = None
    """File for the results, in place of stdout. It appears when it is whole; after a stop the same command goes on."""
    format: FormName | None = None
    """Form of the output, by default by the suffix of --output, else text: text has a line for each image, json
    (.jsonl) an object on a line for each image, csv a row for each character that is printed for an image, tei (.xml)
    zones on the surfaces of pages, alto (.alto.xml) strings on pages."""
    max_unreadable: int = 0
    """Number of files that may be unreadable. Each is named, and all others are predicted; with more of them the exit
    code is 1."""

    def __post_init__(self) -> None:
        if not self.images and self.boxes is None:
            raise InputError("no image given; expected files or folders")
        if self.top < 1:
            raise InputError(f"--top {self.top}: expected 1 or more characters")
        if self.max_unreadable < 0:
            raise InputError(f"--max-unreadable {self.max_unreadable}: expected 0 or more files")

    @property
    def form(self) -> str:
        """Name of the form of the output."""
        name = self.output.name.lower() if self.output else ""
        return self.format or next((form for suffix, form in BY_SUFFIX.items() if name.endswith(suffix)), "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be predicted, and how it is written."""

    predictor: "Predictor"
    items: Sequence["Item"]
    top: int
    form: Form
    shown: Progress | None
    """Where it is said how far the job is; None for nowhere."""


class Sink(Protocol):
    """Where results go."""

    items: int
    """Items whose results it has."""
    failed: int
    """Of them, those with an error."""

    def write(self, text: str, items: int, failed: int) -> None:
        """Take the results of some items, of which so many failed."""
        ...


class Stdout:
    """Results on stdout."""

    def __init__(self) -> None:
        self.items = self.failed = 0

    def write(self, text: str, items: int, failed: int) -> None:
        """See Sink."""
        sys.stdout.write(text)
        sys.stdout.flush()
        self.items += items
        self.failed += failed


def predict(config: PredictConfig) -> None:
    """Write predictions to stdout or a file as they are made, and unreadable files and the speed to stderr.

    Raises InputError if no file could be read, and SystemExit(1) if more were unreadable than are allowed.
    """
    if config.output is not None:
        refuse_existing(config.output)
    items, others = _items(config)

    import torch  # takes seconds, which --help and a wrong path do not need

    from kkanji.inference.predict import Predictor

    predictor = Predictor(config.checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    start = perf_counter()
    if config.output is None:
        before, failed = 0, _predict_to_stdout(config, predictor, items)
    else:
        with ResultFile(config.output, _identity(config, items)) as file:
            before, failed = file.items, _predict_to_file(config, predictor, items, file)
    seconds, predicted = perf_counter() - start, len(items) - failed
    speed = f"{seconds:.2f} s, {(len(items) - before) / seconds:,.0f} images/s on {predictor.device.type}"
    speed += f"; {failed:,} unreadable, {others:,} other files left out"
    sys.stderr.write(f"{counted(predicted, 'image')} in {speed}\n")
    _judge(config, len(items), failed)


def _items(config: PredictConfig) -> tuple[Sequence["Item"], int]:
    """What is to be read, and the number of other files in the folders."""
    listing = list_images(config.images) if config.images else Listing(files=(), others=0)
    if config.boxes is None:
        return every_page(listing.files), listing.others
    boxes = read_boxes(config.boxes, listing.files)
    bare = set(listing.files) - {box.file for box in boxes}
    if bare:
        sys.stderr.write(f"{counted(len(bare), 'page')} without a box, such as {printable(str(min(bare)))}\n")
    return by_page(boxes) if config.form in ("tei", "alto") else boxes, listing.others


def _predict_to_stdout(config: PredictConfig, predictor: "Predictor", items: Sequence["Item"]) -> int:
    """Returns the number of items that failed."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    written = form(config.form, boxed=config.boxes is not None, ascii_only=not is_utf8, only=_only_file(items))
    shown = Progress(len(items)) if not sys.stdout.isatty() else None
    job = Job(predictor=predictor, items=items, top=config.top, form=written, shown=shown)
    return _predict_all(job, Stdout())


def _predict_to_file(config: PredictConfig, predictor: "Predictor", items: Sequence["Item"], file: ResultFile) -> int:
    """Returns the number of items that failed, those of an earlier run included."""
    written = form(config.form, boxed=config.boxes is not None, errors=True, only=_only_file(items))
    if config.form == "csv":
        written = replace(written, head=BOM + written.head)
    if file.items:
        sys.stderr.write(f"{file.path}: goes on after {counted(file.items, 'result')} of an earlier run\n")
    shown = Progress(len(items), done=file.items)
    failed = _predict_all(Job(predictor=predictor, items=items, top=config.top, form=written, shown=shown), file)
    file.finish()
    return failed


def _predict_all(job: Job, sink: Sink) -> int:
    """Predict what the sink does not have yet, a batch at a time. Returns the number of items that failed."""
    from kkanji.inference.predict import BATCH, predict_files

    before = Written().followed_by(map(_page_of, job.items[: sink.items]))
    text = "" if sink.items else job.form.head
    predictions = predict_files(job.predictor, job.items[sink.items :], top=job.top)
    while batch := list(islice(predictions, BATCH)):
        bad = [each for each in batch if each.error]
        for each in bad:
            _tell(job, str(each.error))
        is_last = sink.items + len(batch) == len(job.items)
        text += job.form.entries(batch, before, is_last)
        sink.write(text + (job.form.tail if is_last else ""), len(batch), len(bad))
        text, before = "", before.followed_by(map(page_key, batch))
        if job.shown:
            job.shown.update(len(batch), sink.failed)
    if job.shown:
        job.shown.close()
    return sink.failed


def _page_of(item: "Item") -> PageKey:
    return _file_of(item), item.number if isinstance(item, Page) else None


def _file_of(item: "Item") -> Path:
    return item if isinstance(item, Path) else item.file


def _only_file(items: Sequence["Item"]) -> Path | None:
    """The file of all items; None if they are of several."""
    files = {_file_of(item) for item in items}
    return files.pop() if len(files) == 1 else None


def _tell(job: Job, error: str) -> None:
    """Name a file that could not be read. The only one is an error of the command."""
    if len(job.items) == 1:
        raise InputError(error)
    message = f"unreadable: {printable(error)}"
    if job.shown:
        job.shown.say(message)
    else:
        sys.stderr.write(f"{message}\n")


def _identity(config: PredictConfig, items: Sequence["Item"]) -> str:
    """Everything that the results depend on: the model, the options, and what is read, with sizes and times."""
    model = read_bounded(config.checkpoint / "manifest.json").decode(errors="replace")
    files = [(str(item), *_stamp(_file_of(item))) for item in items]
    return json.dumps([model, config.top, config.form, files])


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns


def _judge(config: PredictConfig, items: int, failed: int) -> None:
    """Raises InputError if nothing could be read, and SystemExit(1) above the limit."""
    if failed == items:
        raise InputError(f"all {failed:,} files are unreadable; expected images of one character each")
    if failed > config.max_unreadable:
        allowed = f"--max-unreadable is {config.max_unreadable:,}"
        sys.stderr.write(f"error: {failed:,} unreadable, {allowed}; convert them, leave them out or allow more\n")
        sys.exit(cli.PROBLEM)


def main() -> None:
    """Run with the options of the command line."""
    predict(cli.parse(PredictConfig))


if __name__ == "__main__":
    cli.run(main)
