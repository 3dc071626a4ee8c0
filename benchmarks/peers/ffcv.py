"""FFCV 1.0.2, order RANDOM, from the page cache. Building it needs the headers of OpenCV and TurboJPEG."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, NDArrayField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import Squeeze, ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers import IMAGE_SIZE, Batch, Epoch, Job

PACKAGES = ("ffcv", "numba", "torch")
BATCHES_AHEAD = 3  # FFCV's default; 5 was no faster
AHEAD = BATCHES_AHEAD + 3


class _Images:
    def __init__(self, job: Job) -> None:
        self.images = job.images()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return np.asarray(self.images[number]), number


class _ParallelDecoder(NDArrayDecoder):  # type: ignore[misc]
    def generate_code(self) -> Callable[..., Any]:
        decoder: Any = super().generate_code()
        decoder.is_parallel = True
        return decoder  # type: ignore[no-any-return]


def write(job: Job) -> None:
    """Write one .beton file with raw images."""
    shape = (IMAGE_SIZE, IMAGE_SIZE)
    fields = {"image": NDArrayField(np.dtype("uint8"), shape), "label": IntField()}
    DatasetWriter(str(_file(job)), fields, num_workers=job.threads).from_indexed_dataset(_Images(job))


def local(job: Job) -> Epoch:
    """As released: its NDArrayDecoder is not marked parallel, so one thread copies all images."""
    return _epochs(job, NDArrayDecoder())


def parallel(job: Job) -> Epoch:
    """With the decoder marked parallel, as FFCV's other decoders are (one line), so that all threads copy."""
    return _epochs(job, _ParallelDecoder())


def _epochs(job: Job, decoder: NDArrayDecoder) -> Epoch:
    loader = Loader(
        str(_file(job)),
        batch_size=job.batch,
        num_workers=job.threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        batches_ahead=BATCHES_AHEAD,
        pipelines={"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )

    def epoch() -> Iterator[Batch]:
        with closing(iter(loader)) as batches:  # closing ends FFCV's thread
            for images, labels in batches:
                yield Batch(images, labels)

    return epoch


def _file(job: Job) -> Path:
    return Path(job.folder) / "images.beton"
