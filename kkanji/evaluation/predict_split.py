"""Predict every image of a split exactly once, on any number of ranks. Predictions stay on the device until the end."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji.data.dali import Batch, Loader
from kkanji.data.feed import Feed
from kkanji.data.resident import ResidentImages
from kkanji.evaluation.calibration import TemperatureScan
from kkanji.evaluation.predictions import TOP, Predictions
from kkanji.memory import largest_that_fits
from kkanji.pixels import normalise
from shards import SampleOrder, ShardSet, SplitReader
from shards.format.layout import IMAGE_SIZE
from shards.order.sequential import cut

# Images at a time, by the type of the device. On a GPU, 500 images are done before the next operator is launched: 489
# operators of b0 take the host longer (an estimate). More are not faster on a CPU.
BATCHES = {"cpu": 500, "cuda": 4096}
REACH = 2  # largest shift of a view along each axis, in pixels
Shift = tuple[int, int]
"""Pixels (down, right)."""


def unaugmented_feed(
    reader: SplitReader,
    classes: int,
    class_numbers: NDArray[np.int64] | None = None,
    *,
    resident: ResidentImages | None = None,
) -> Feed:
    """The images of a split in stored order, not augmented. Arguments as in `Feed`."""
    order = SampleOrder(samples=reader.samples, seed=0, shuffle=False)
    return Feed(reader=reader, order=order, classes=classes, class_numbers=class_numbers, resident=resident)


def predict_split(
    accelerator: Accelerator,
    model: nn.Module,
    feed: Feed,
    *,
    views: int = 1,
    scan: TemperatureScan | None = None,
    through: Callable[[Iterable[Batch]], Iterator[Batch]] = iter,
) -> Predictions:
    """The model's predictions for all images of a feed, in the order of the split, the same on every rank.

    Every rank has the same model, batch statistics included.

    The feed may have classes that the model lacks, numbered after the model's own: they are never predicted.

    views: number of views of each image whose probabilities are averaged, from 1 (only the image itself, the default)
    to 25 (with shifts of up to REACH pixels).
    scan: if given, fits a temperature to the images of this rank.
    through: passes the batches on, or raises an error on all ranks.
    """
    # The bare model, because the distributed wrapper exchanges buffers before each batch: a rank with one batch more
    # than the others would wait for them forever.
    bare: nn.Module = accelerator.unwrap_model(model).eval()
    start, stop = cut(0, feed.reader.samples, accelerator.process_index, accelerator.num_processes)
    largest = batch_size(accelerator, bare, stop - start)
    parts = -(-(stop - start) // largest)
    spans = [cut(start, stop, part, parts) for part in range(parts)]
    predictions = [_no_predictions(accelerator.device)]
    with Loader(feed, spans, accelerator.device, largest=largest) as loader, torch.inference_mode():
        for batch, (first, _) in zip(through(loader), spans, strict=True):
            with accelerator.autocast():
                logits = _logits(bare, batch.images, shifts(views))
            unknown = feed.classes - logits.shape[1]
            logits = nn.functional.pad(logits, (0, unknown), value=-math.inf)
            predictions.append(_predictions(logits, batch.labels, first))
            if scan:
                scan.add(logits, batch.labels, first)
    return _merge(accelerator, predictions, feed.reader.samples)


def batch_size(accelerator: Accelerator, model: nn.Module, images: int) -> int:
    """Images that this rank's device predicts at a time, at least 1 and at most the given number.

    A GPU, most of whose memory a training may hold at the same time, is tried.
    """
    device = accelerator.device
    wanted = max(1, min(images, BATCHES[device.type]))
    if device.type == "cpu":
        return wanted
    return max(1, largest_that_fits(partial(_try, accelerator, model), wanted))


@torch.inference_mode()
def _try(accelerator: Accelerator, model: nn.Module, images: int) -> None:
    blank = torch.zeros(images, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=accelerator.device)
    with accelerator.autocast():
        _output(model, blank).softmax(dim=1)


def shifts(views: int) -> list[Shift]:
    """The nearest shifts, none first: so 1, 5, 9, 13, 21 and 25 views are symmetric about the image itself."""
    reach = range(-REACH, REACH + 1)
    every = [(down, right) for down in reach for right in reach]
    return sorted(every, key=lambda shift: (math.hypot(*shift), shift))[:views]


def training_originals(data: ShardSet) -> NDArray[np.int64]:
    """Number of distinct originals of each class in the training split, without rendered ones, [classes].

    All zero if the set has no training split.
    """
    return _per_class(data, "originals_per_class") - training_rendered(data)


def training_rendered(data: ShardSet) -> NDArray[np.int64]:
    """Number of images of each class in the training split that were rendered from fonts, [classes]."""
    return _per_class(data, "rendered_counts")


def _per_class(data: ShardSet, field: str) -> NDArray[np.int64]:
    split = data.manifest.splits.get("train")
    return np.array(getattr(split, field) if split else [0] * data.manifest.classes, np.int64)


def describe(data: ShardSet) -> dict[str, Any]:
    """The facts about a set that config.json records and reports show."""
    manifest = data.manifest
    images = {f"{name}_images": split.samples for name, split in manifest.splits.items()}
    originals, rendered = training_originals(data).sum(), training_rendered(data).sum()
    return {
        "name": manifest.name,
        "licence": manifest.licence,
        "lineage": manifest.lineage,
        "classes": manifest.classes,
        "identity": manifest.identity(),
        **images,
        "train_originals": int(originals),
        "train_rendered": int(rendered),
    }


def _logits(model: nn.Module, images: Tensor, views: list[Shift]) -> Tensor:
    """Logits float32 [B, C]; for several views the logarithm of their mean probabilities."""
    if len(views) == 1:
        return _output(model, images)
    log_probabilities = torch.stack([_output(model, _shifted(images, shift)).log_softmax(dim=1) for shift in views])
    return log_probabilities.logsumexp(dim=0) - math.log(len(views))


def _output(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(normalise(images)).float()
    return logits


def _shifted(images: Tensor, shift: Shift) -> Tensor:
    """Images [B, 1, H, W] moved by whole pixels; pixels that enter are black, the background."""
    down, right = shift
    return nn.functional.pad(images, (right, -right, down, -down))


def _predictions(logits: Tensor, labels: Tensor, first: int) -> Predictions:
    """Predictions for consecutive images of the split, the first at position `first`, on the device."""
    probability = logits.softmax(dim=1)
    top = probability.topk(min(TOP, logits.shape[1]), dim=1)
    missing = TOP - top.values.shape[1]
    return Predictions(
        position=torch.arange(first, first + len(labels), device=labels.device),
        label=labels.int(),
        predicted=nn.functional.pad(top.indices, (0, missing), value=-1).int(),
        probability=nn.functional.pad(top.values, (0, missing)),
        label_probability=probability.gather(1, labels[:, None])[:, 0],
    )


def _no_predictions(device: torch.device) -> Predictions:
    """Predictions for no image: a rank may have none, and still takes part in the gather."""
    return _predictions(torch.zeros(0, 1, device=device), torch.zeros(0, dtype=torch.int64, device=device), 0)


def _merge(accelerator: Accelerator, parts: list[Predictions], samples: int) -> Predictions:
    """The predictions of all ranks in the order of the split."""
    names = [field.name for field in fields(Predictions)]
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Predictions(**{name: _gather(accelerator, column, samples) for name, column in columns.items()})


def _gather(accelerator: Accelerator, own: Tensor, samples: int) -> Tensor:
    """One array of all ranks in the order of the split.

    gather needs equal lengths, and the ranks' differ by at most one image: so pad, gather, cut.
    """
    ranks = accelerator.num_processes
    most = -(-samples // ranks)
    padding = own.new_zeros((most - len(own), *own.shape[1:]))
    gathered: Any = accelerator.gather(torch.cat([own, padding])[None])
    sizes = [stop - start for start, stop in (cut(0, samples, rank, ranks) for rank in range(ranks))]
    return torch.cat([gathered[rank, :size] for rank, size in enumerate(sizes)])
