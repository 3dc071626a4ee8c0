"""A shard set as training sees it: opened from anywhere, with its class map and the order of its images."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kkanji.classes import ClassMap, parse_class_map
from kkanji.config import OrderOptions, TrainConfig
from kkanji.data.codec import decode_into
from shards import (
    BalancedOrder,
    CorruptShard,
    InputError,
    Order,
    SampleOrder,
    ShardSet,
    SplitReader,
    WindowedOrder,
    default_cache,
)
from shards.format.manifest import CLASSES_NAME
from shards.order.balanced import draws_per_class
from shards.read.prefetch import WINDOW_FRACTION

GIGABYTE = 10**9
ORDER_VERSION = 2  # of the streams, which a checkpoint records: since 2, a lane has the same shards in every epoch
WINDOW = 8  # shards that order windowed mixes at a time: 200,000 images of the usual 25,000 a shard


def open_set(location: str | Path, *, cache_size: float = 0.0) -> ShardSet:
    """Open a set in a folder or an object store. cache_size: gigabytes of cache, 0 for 80 % of the free disk space."""
    data = ShardSet(location, decode=decode_into)
    if cache_size and not data.in_place:
        data.cache = default_cache(int(cache_size * GIGABYTE))
    return data


def class_map(data: ShardSet) -> ClassMap:
    """The set's class map. Raises InputError if its number of classes is not that of the manifest."""
    classes = parse_class_map(data.read(CLASSES_NAME).decode(), f"{data.location}/{CLASSES_NAME}")
    if len(classes) != data.manifest.classes:
        found = f"{len(classes)} classes in {CLASSES_NAME}, {data.manifest.classes} in dataset.json"
        raise InputError(f"{data.location}: {found}; pack the set again")
    return classes


def whole_bytes(data: ShardSet) -> int:
    """Size of all shards of all splits, unpacked."""
    return sum(shard.plain_bytes for split in data.manifest.splits.values() for shard in split.shards)


def fits(data: ShardSet) -> bool:
    """Whether this machine can hold the whole set: it is here already, or the cache has room for it."""
    return whole_bytes(data) <= room_bytes(data)


def room_bytes(data: ShardSet) -> float:
    """Room on this machine for the set's shards: the limit of its cache, or none for a set that is read in place."""
    return math.inf if data.in_place else data.cache.limit_bytes


def resolve_order(config: TrainConfig, data: ShardSet, room: float) -> TrainConfig:
    """The config with order and window resolved: order full if every machine can hold the whole set.

    room: bytes on the machine that has the least.
    """
    sampling = config.sampling
    if sampling.order == "auto":
        sampling = replace(sampling, order="full" if whole_bytes(data) <= room else "windowed")
    if sampling.order == "windowed" and not sampling.window:
        shards = data.manifest.splits["train"].shards
        # One shard less than the room has: while a window is read, the first shard of the next one is fetched.
        most = len(shards) if room == math.inf else int(room / _window_bytes(sampling, data, shards=1)) - 1
        sampling = replace(sampling, window=max(1, min(WINDOW, most)))
    return replace(config, sampling=sampling)


def require_room(config: TrainConfig, data: ShardSet) -> None:
    """Raises InputError if this machine's cache has no room for the window of a resolved config."""
    sampling = config.sampling
    if sampling.order != "windowed":
        return
    needed, room = _window_bytes(sampling, data, shards=sampling.window + 1), room_bytes(data)
    if needed > room:
        found = f"a window of {sampling.window} shards in each of {sampling.lanes} lanes takes {needed / 1e9:.2f} GB"
        remedy = "give --cache-size or a smaller --window"
        raise InputError(f"{data.location}: {found} of cache, there are {room / 1e9:.2f}; {remedy}")


def _window_bytes(sampling: OrderOptions, data: ShardSet, *, shards: int) -> float:
    """Cache for this number of the largest shards in each lane."""
    largest = max(shard.plain_bytes for shard in data.manifest.splits["train"].shards)
    return shards * sampling.lanes * largest / WINDOW_FRACTION


def training_order(config: TrainConfig, data: ShardSet, reader: SplitReader) -> Order:
    """The order of the training images that a resolved config describes.

    reader: of the training split. Raises CorruptShard if order balanced finds other labels than the manifest counts.
    """
    sampling, seed = config.sampling, config.runtime.seed
    if sampling.order == "windowed":
        return WindowedOrder(
            [shard.samples for shard in data.manifest.splits["train"].shards],
            seed=seed,
            window=sampling.window,
            lanes=sampling.lanes,
            batch_size=config.optimization.batch_size,
        )
    if sampling.order == "balanced":
        samples = data.manifest.splits["train"].samples_per_class
        draws = draws_per_class(samples, sampling.draws_per_class, exponent=sampling.draw_exponent)
        return BalancedOrder(labels=_checked_labels(data, reader), draws=draws, seed=seed)
    return SampleOrder(samples=reader.samples, seed=seed)


def _checked_labels(data: ShardSet, reader: SplitReader) -> NDArray[np.int32]:
    """Labels of all training images. A damaged one could name a class of 2**31 and take its counts' memory."""
    labels = reader.labels()
    known = labels[(labels >= 0) & (labels < data.manifest.classes)]
    samples = data.manifest.splits["train"].samples_per_class
    if not np.array_equal(np.bincount(known, minlength=data.manifest.classes), samples):
        found = "the labels in the shards of train are not as many of each class as dataset.json says"
        raise CorruptShard(f"{data.location}: {found}; run `kkanji verify` on it")
    return labels
