"""A shard set as training sees it: opened from anywhere, its class map, and the order its samples come in."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kkanji.classes import ClassMap, parse_class_map
from kkanji.config import TrainConfig
from kkanji.images import decode_into
from shards import (
    CorruptShard,
    DrawnOrder,
    InputError,
    Order,
    SampleOrder,
    ShardSet,
    SplitReader,
    WindowedOrder,
    default_cache,
)
from shards.draws import draws_per_class
from shards.lookahead import WINDOW_SHARE
from shards.manifest import CLASSES_NAME

GIGABYTE = 10**9
WINDOW = 8  # shards that order windowed mixes at a time: 200,000 images of the usual 25,000 a shard


def open_set(location: str | Path, *, cache_size: float = 0.0) -> ShardSet:
    """A set in a folder or in an object store; cache_size: gigabytes, 0 for most of what the disk has free."""
    data = ShardSet(location, decode=decode_into)
    if cache_size and not data.in_place:
        data.cache = default_cache(int(cache_size * GIGABYTE))
    return data


def class_map(data: ShardSet) -> ClassMap:
    """The set's class map. Raises InputError when it is not the one of its manifest."""
    classes = parse_class_map(data.read(CLASSES_NAME).decode(), f"{data.location}/{CLASSES_NAME}")
    if len(classes) != data.manifest.classes:
        found = f"{len(classes)} classes in {CLASSES_NAME}, {data.manifest.classes} in dataset.json"
        raise InputError(f"{data.location}: {found}; pack the set again")
    return classes


def whole_bytes(data: ShardSet) -> int:
    """All shards of all splits, unpacked."""
    return sum(shard.plain_bytes for split in data.manifest.splits.values() for shard in split.shards)


def fits(data: ShardSet) -> bool:
    """Whether all of the set can be on this machine: it is here, or the cache has room for it."""
    return data.in_place or whole_bytes(data) <= data.cache.limit_bytes


def settle_order(config: TrainConfig, data: ShardSet) -> TrainConfig:
    """The options with the order and its window named: shuffled over the whole set if that fits on this machine."""
    sizes = [shard.plain_bytes for shard in data.manifest.splits["train"].shards]
    room = whole_bytes(data) if data.in_place else data.cache.limit_bytes
    if config.order == "auto":
        config = replace(config, order="full" if fits(data) else "windowed")
    if config.order != "windowed":
        return config
    most = len(sizes) if data.in_place else int(room * WINDOW_SHARE) // max(sizes) // config.lanes - 1
    window = config.window or min(WINDOW, most)
    if not 0 < window <= max(most, 0):
        needed = (window + 1) * config.lanes * max(sizes) / WINDOW_SHARE  # one more between two groups
        found = f"a window of {window} shards in each of {config.lanes} lanes takes {needed / 1e9:.2f} GB of cache"
        remedy = "give --cache-size or a smaller --window"
        raise InputError(f"{data.location}: {found}, there are {room / 1e9:.2f}; {remedy}")
    return replace(config, window=window)


def training_order(config: TrainConfig, data: ShardSet, reader: SplitReader) -> Order:
    """The stream of training samples that the options describe."""
    split = data.manifest.splits["train"]
    if config.order == "windowed":
        sizes = [shard.samples for shard in split.shards]
        return WindowedOrder(
            sizes, seed=config.seed, window=config.window, lanes=config.lanes, batch_size=config.batch_size
        )
    if config.order == "balanced":
        labels = reader.labels()
        known = labels[(labels >= 0) & (labels < data.manifest.classes)]
        if not np.array_equal(np.bincount(known, minlength=data.manifest.classes), split.samples_per_class):
            found = "the labels in the shards of train are not as many of each class as dataset.json says"
            raise CorruptShard(f"{data.location}: {found}; run `python -m tools verify` on it")
        draws = draws_per_class(
            split.samples_per_class, config.draws_per_class, exponent=config.draw_exponent, cap=config.draw_cap
        )
        return DrawnOrder(labels=labels, draws=draws, seed=config.seed)
    return SampleOrder(samples=reader.samples, seed=config.seed)
