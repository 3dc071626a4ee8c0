"""A shard set as training sees it: opened from anywhere, its class map, and the order its samples come in."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from kkanji.classes import ClassMap, parse_class_map
from kkanji.config import TrainConfig
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
    return whole_bytes(data) <= room_bytes(data)


def room_bytes(data: ShardSet) -> float:
    """What this machine has for the set's shards: its cache, or no limit where they are used where they lie."""
    return math.inf if data.in_place else data.cache.limit_bytes


def resolve_order(config: TrainConfig, data: ShardSet, room: float) -> TrainConfig:
    """The options with the order and its window named: shuffled over the whole set if that fits on every machine.

    room: bytes on the machine that has the least.
    """
    if config.order == "auto":
        config = replace(config, order="full" if whole_bytes(data) <= room else "windowed")
    if config.order != "windowed" or config.window:
        return config
    shards = data.manifest.splits["train"].shards
    most = len(shards) if room == math.inf else int(room / _window_bytes(config, data, shards=1)) - 1
    return replace(config, window=max(1, min(WINDOW, most)))


def require_room(config: TrainConfig, data: ShardSet) -> None:
    """Raises InputError if this machine's cache has no room for the window of the settled options."""
    if config.order != "windowed":
        return
    needed, room = _window_bytes(config, data, shards=config.window + 1), room_bytes(data)  # one between two groups
    if needed > room:
        found = f"a window of {config.window} shards in each of {config.lanes} lanes takes {needed / 1e9:.2f} GB"
        remedy = "give --cache-size or a smaller --window"
        raise InputError(f"{data.location}: {found} of cache, there are {room / 1e9:.2f}; {remedy}")


def _window_bytes(config: TrainConfig, data: ShardSet, *, shards: int) -> float:
    """Of a cache, for so many of the largest shards in each lane."""
    largest = max(shard.plain_bytes for shard in data.manifest.splits["train"].shards)
    return shards * config.lanes * largest / WINDOW_FRACTION


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
        return BalancedOrder(labels=labels, draws=draws, seed=config.seed)
    return SampleOrder(samples=reader.samples, seed=config.seed)
