"""Exact evaluation: every image of a split once, on any number of ranks."""

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji.metrics import TOP, Predictions
from kkanji.pipeline import Feed, Loader
from kkanji.pixels import normalise
from shards import SampleOrder, ShardSet, SplitReader
from shards.order import cut

BATCH = 500  # images at a time; evaluation keeps no activations, so memory does not decide


def plain_feed(reader: SplitReader, classes: int) -> Feed:
    """A split's images in stored order, as they are."""
    return Feed(reader=reader, order=SampleOrder(samples=reader.samples, seed=0, shuffle=False), classes=classes)


def predict_split(accelerator: Accelerator, model: nn.Module, feed: Feed) -> Predictions:
    """The model's predictions for all images of a feed, the same on every rank."""
    start, stop = cut(0, feed.reader.samples, accelerator.process_index, accelerator.num_processes)
    parts = -(-(stop - start) // BATCH)
    stretches = [cut(start, stop, part, parts) for part in range(parts)]
    model.eval()
    columns: list[tuple[Tensor, ...]] = []
    with Loader(feed, stretches, accelerator.device, largest=BATCH) as loader, torch.inference_mode():
        for batch in loader:
            with accelerator.autocast():
                logits = model(normalise(batch.images))
            columns.append(_columns(logits.float(), batch.labels))
    merged = [_merge(accelerator, list(column), feed.reader.samples) for column in zip(*columns, strict=True)]
    return Predictions(labels=merged[0], predicted=merged[1], probability=merged[2], label_probability=merged[3])


def training_originals(data: ShardSet) -> NDArray[np.int64]:
    """Different originals of each class in the training split [classes]; zeros where a set has no such split."""
    split = data.manifest.splits.get("train")
    return np.array(split.originals_per_class if split else [0] * data.manifest.classes, np.int64)


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


def _columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Label, five most probable classes, their probabilities, the label's: on the device."""
    probability = logits.softmax(dim=1)
    top = probability.topk(min(TOP, logits.shape[1]), dim=1)
    missing = TOP - top.values.shape[1]
    predicted = nn.functional.pad(top.indices, (0, missing), value=-1)
    values = nn.functional.pad(top.values, (0, missing))
    return labels.int(), predicted.int(), values, probability.gather(1, labels[:, None])[:, 0]


def _merge(accelerator: Accelerator, parts: list[Tensor], samples: int) -> NDArray[Any]:
    """One column of all ranks in the split's order. Ranks' shares differ by at most one image: pad, gather, cut."""
    own = torch.cat(parts)
    ranks = accelerator.num_processes
    most = -(-samples // ranks)
    padding = own.new_zeros((most - len(own), *own.shape[1:]))
    gathered: Any = accelerator.gather(torch.cat([own, padding])[None])
    sizes = [stop - start for start, stop in (cut(0, samples, rank, ranks) for rank in range(ranks))]
    return np.concatenate([gathered[rank, :size].cpu().numpy() for rank, size in enumerate(sizes)])
