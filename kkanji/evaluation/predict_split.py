"""Exact evaluation: every image of a split once, on any number of ranks; nothing leaves the device before the end."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji.data.dali import Loader
from kkanji.data.feed import Feed
from kkanji.evaluation.calibration import TemperatureScan
from kkanji.evaluation.predictions import TOP, Predictions
from kkanji.pixels import normalise
from shards import SampleOrder, ShardSet, SplitReader
from shards.order.sequential import cut

BATCH = 500  # images at a time; evaluation keeps no activations, so memory does not decide
REACH = 2  # pixels that an image is shifted at most
SYMMETRIC_VIEWS = (1, 5, 9, 13, 21, 25)  # numbers of shifts, nearest first, that lie evenly about none
Shift = tuple[int, int]


def unaugmented_feed(reader: SplitReader, classes: int, class_numbers: NDArray[np.int64] | None = None) -> Feed:
    """A split's images in stored order, as they are."""
    order = SampleOrder(samples=reader.samples, seed=0, shuffle=False)
    return Feed(reader=reader, order=order, classes=classes, class_numbers=class_numbers)


def predict_split(
    accelerator: Accelerator, model: nn.Module, feed: Feed, *, views: int = 1, scan: TemperatureScan | None = None
) -> Predictions:
    """The model's predictions for all images of a feed, in the split's order, the same on every rank.

    Classes of the feed that the model does not have, numbered after its own, are never read.

    views: of each image, over which the stated probabilities are averaged: itself and so many small shifts of it.
    scan: counts this rank's images, where a temperature is wanted.
    """
    # Not the distributed wrapper: it exchanges buffers before each batch, and one rank may have a batch more.
    bare: nn.Module = accelerator.unwrap_model(model).eval()
    average_buffers(accelerator, bare)
    start, stop = cut(0, feed.reader.samples, accelerator.process_index, accelerator.num_processes)
    parts = -(-(stop - start) // BATCH)
    spans = [cut(start, stop, part, parts) for part in range(parts)]
    found = [_nothing(accelerator.device)]
    with Loader(feed, spans, accelerator.device, largest=BATCH) as loader, torch.inference_mode():
        for batch, (first, _) in zip(loader, spans, strict=True):
            with accelerator.autocast():
                logits = _logits(bare, batch.images, shifts(views))
            unknown = feed.classes - logits.shape[1]
            logits = nn.functional.pad(logits, (0, unknown), value=-math.inf)
            found.append(_read(logits, batch.labels, first))
            if scan:
                scan.add(logits, batch.labels, first)
    return _merge(accelerator, found, feed.reader.samples)


def average_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Every rank has seen other images: give all of them the mean of their normalisation statistics."""
    if accelerator.num_processes == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.copy_(accelerator.reduce(buffer.detach().clone(), reduction="mean"))


def shifts(views: int) -> list[Shift]:
    """The nearest shifts in pixels (down, right), no shift first."""
    reach = range(-REACH, REACH + 1)
    every = [(down, right) for down in reach for right in reach]
    return sorted(every, key=lambda shift: (math.hypot(*shift), shift))[:views]


def training_originals(data: ShardSet) -> NDArray[np.int64]:
    """Different originals of each class in the training split [classes], images rendered from fonts not among them;
    zeros where a set has no such split."""
    return _per_class(data, "originals_per_class") - training_rendered(data)


def training_rendered(data: ShardSet) -> NDArray[np.int64]:
    """Images of each class in the training split that are rendered from fonts [classes]."""
    return _per_class(data, "rendered_counts")


def _per_class(data: ShardSet, field: str) -> NDArray[np.int64]:
    split = data.manifest.splits.get("train")
    return np.array(getattr(split, field) if split else [0] * data.manifest.classes, np.int64)


def describe(data: ShardSet) -> dict[str, Any]:
    """What a report says of the data."""
    manifest = data.manifest
    images = {f"{name}_images": split.samples for name, split in manifest.splits.items()}
    return {
        "name": manifest.name,
        "licence": manifest.licence,
        "lineage": manifest.lineage,
        "classes": manifest.classes,
        "identity": manifest.identity(),
        **images,
    }


def _logits(model: nn.Module, images: Tensor, views: list[Shift]) -> Tensor:
    """float32 [B, C]; of several views the logarithm of their mean probabilities."""
    if len(views) == 1:
        return _output(model, images)
    each = torch.stack([_output(model, _shifted(images, shift)).log_softmax(dim=1) for shift in views])
    return each.logsumexp(dim=0) - math.log(len(views))


def _output(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(normalise(images)).float()
    return logits


def _shifted(images: Tensor, shift: Shift) -> Tensor:
    """Images [B, 1, H, W] moved by whole pixels; what comes in is black, without ink."""
    down, right = shift
    return nn.functional.pad(images, (right, -right, down, -down))


def _read(logits: Tensor, labels: Tensor, first: int) -> Predictions:
    """Readings of images at positions first.. of the split, on the device."""
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


def _nothing(device: torch.device) -> Predictions:
    """What a rank without an image has read."""
    return _read(torch.zeros(0, 1, device=device), torch.zeros(0, dtype=torch.int64, device=device), 0)


def _merge(accelerator: Accelerator, parts: list[Predictions], samples: int) -> Predictions:
    names = [field.name for field in fields(Predictions)]
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Predictions(**{name: _gather(accelerator, column, samples) for name, column in columns.items()})


def _gather(accelerator: Accelerator, own: Tensor, samples: int) -> Tensor:
    """One column of all ranks in the split's order. Ranks' shares differ by at most one image: pad, gather, cut."""
    ranks = accelerator.num_processes
    most = -(-samples // ranks)
    padding = own.new_zeros((most - len(own), *own.shape[1:]))
    gathered: Any = accelerator.gather(torch.cat([own, padding])[None])
    sizes = [stop - start for start, stop in (cut(0, samples, rank, ranks) for rank in range(ranks))]
    return torch.cat([gathered[rank, :size] for rank, size in enumerate(sizes)])
