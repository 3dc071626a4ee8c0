"""A shard set as training sees it: opened from anywhere, with its class map and the order of its images."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from kkanji.classes import ClassMap, parse_class_map
from kkanji.config import OrderOptions, TrainConfig, flag
from kkanji.data.codec import decode_into
from shards import (
    BalancedOrder,
    InputError,
    Order,
    SampleOrder,
    ShardSet,
    SplitReader,
    WindowedOrder,
    default_cache,
)
from shards.cache.cache import larger_cache
from shards.format.layout import IMAGE_BYTES
from shards.format.manifest import CLASSES_NAME
from shards.order.balanced import draws_per_class
from shards.read.prefetch import WINDOW_FRACTION

GIGABYTE = 10**9
RESIDENT_FRACTION = 0.5  # of a device's free memory; the rest is for the network, its activations and batches
RESIDENT_SPLITS = ("train", "val")  # which a run reads again and again
PREFETCH = 2  # batches that DALI has ready or is working on
KEEP = PREFETCH + 2  # batches whose pixels stay mapped: DALI copies them only after the source has given addresses
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
    classes = parse_class_map(data.read(CLASSES_NAME), f"{data.location}/{CLASSES_NAME}")
    if len(classes) != data.manifest.classes:
        found = f"{len(classes)} classes in {CLASSES_NAME}, {data.manifest.classes} in dataset.json"
        raise InputError(f"{data.location}: {found}; pack the set again")
    return classes


def whole_bytes(data: ShardSet) -> int:
    """Size of all shards of all splits, unpacked."""
    return sum(int(split.table.plain_bytes.sum()) for split in data.manifest.splits.values())


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
        if sampling.order == "full" and (sampling.window or sampling.lanes > 1):
            found = f"--window {sampling.window}, {flag('lanes')} {sampling.lanes}"
            warnings.warn(f"{found}: no effect, as the set fits here; give --order windowed", UserWarning, stacklevel=2)
    if sampling.order == "windowed" and not sampling.window:
        shards = data.manifest.splits["train"].shards
        # So that any number of ranks, whatever their micro-batch, finds room beside the window.
        images = (KEEP + 1) * config.optimization.batch_size
        others = _cache_bytes(data, sampling.lanes * _cut_shards(sampling), images)
        most = len(shards) if room == math.inf else int((room - others) / _cache_bytes(data, sampling.lanes, 0))
        sampling = replace(sampling, window=max(1, min(WINDOW, most)))
    return replace(config, sampling=sampling)


def check_options(config: TrainConfig, data: ShardSet) -> None:
    """Refuse options that make no sense for a new run on this set, and warn of those without effect on it.

    Raises InputError.
    """
    config.check_effects()
    images, batch = _epoch_images(config.sampling, data), config.optimization.batch_size
    if 0 < images < batch:
        found = "draws of an epoch" if config.sampling.order == "balanced" else "images of the training split"
        raise InputError(
            f"--batch-size {batch}: more than the {images:,} {found}, so that several epochs would be one step; "
            f"expected at most {images}"
        )
    for message in filter(None, _doubts(config, data, steps=-(-images * config.schedule.epochs // batch))):
        warnings.warn(message, UserWarning, stacklevel=2)


def _epoch_images(sampling: OrderOptions, data: ShardSet) -> int:
    """Images of an epoch; 0 without a training split, which is told later."""
    split = data.manifest.splits.get("train")
    if split is None:
        return 0
    if sampling.order != "balanced":
        return split.samples
    draws = draws_per_class(split.samples_per_class, sampling.draws_per_class, exponent=sampling.draw_exponent)
    return int(np.sum(draws))


def _doubts(config: TrainConfig, data: ShardSet, *, steps: int) -> Iterator[str]:
    """What is probably not meant. steps: of the run."""
    every, cache, most = config.checkpointing.evaluate_every, config.dataset.cache_size, config.schedule.max_steps
    if every > 1 and "val" not in data.manifest.splits:
        yield f"--evaluate-every {every}: no effect, as {data.location} has no split val; make one by `kkanji split`"
    if cache and data.in_place:
        yield f"--cache-size {cache:g}: no effect, as {data.location} is read in place; leave it out"
    if 0 < most < steps and config.schedule.schedule == "cosine":
        yield f"--max-steps {most} of {steps}: the learning rate will not have fallen to 0 by then"


def resident_bytes(data: ShardSet) -> int:
    """Size of the images that a run trains and evaluates on, as a device holds them."""
    splits = data.manifest.splits
    return sum(splits[name].samples * IMAGE_BYTES for name in RESIDENT_SPLITS if name in splits)


def resolve_residence(config: TrainConfig, data: ShardSet, device: str, free: float) -> tuple[TrainConfig, str]:
    """The config with residence resolved: device if it was asked for, or left open on a GPU, and the images fit.

    They fit if they take at most half of the free memory. If they do not, a message says so; else it is empty.

    device: its type. free: bytes of memory on the device that has the least.
    """
    wanted = config.dataset.residence
    if wanted == "auto":
        wanted = "host" if device == "cpu" else "device"
    needed, message = resident_bytes(data), ""
    if wanted == "device" and needed > free * RESIDENT_FRACTION:
        found = f"{needed / 1e9:.2f} GB of images, more than half of the {free / 1e9:.2f} GB that a device has free"
        wanted, message = "host", f"{data.location}: {found}; they stay on the host"
    return config.with_options(residence=wanted), message


def require_room(config: TrainConfig, data: ShardSet, *, ranks: int, here: int) -> None:
    """Raises InputError if this machine's cache has no room for what a resolved config of order windowed reads at once.

    That is the window and all shards that the batches in progress draw on. ranks: of the run. here: on this machine.
    """
    sampling = config.sampling
    if sampling.order != "windowed" or fits(data):
        return
    # Where the machine's part of a batch is whole lanes, it reads no others.
    of = ranks // here if sampling.lanes * here % ranks == 0 else 1
    images, lanes = _images_in_progress(config, ranks, of), sampling.lanes // of
    window, room = sampling.window, room_bytes(data)
    needed = min(_cache_bytes(data, lanes * (window + _cut_shards(sampling)), images), whole_bytes(data))
    if needed > room:
        found = f"a window of {window} shards{f' in each of {lanes} lanes' if lanes > 1 else ''}"
        found += f" and the {images:,} images of the batches in progress take {needed / 1e9:.3g} GB"
        smaller = ", or give a smaller --window" if window > 1 else ""
        remedy = larger_cache(needed) + smaller
        raise InputError(f"{data.location}: {found} of cache, there are {room / 1e9:.3g}; {remedy}")


def _images_in_progress(config: TrainConfig, ranks: int, of: int) -> int:
    """Between the first and the last that ranks hold, of their last KEEP micro-batches each, in a machine's lanes.

    ranks: of the run. of: machines among which its lanes are divided.
    """
    batch = config.optimization.batch_size
    # A micro-batch that is left open is at most a rank's whole part of a batch.
    own = math.ceil(batch / (ranks * (config.runtime.micro_batch or batch)))
    if ranks == of:  # no other rank reads these lanes
        return KEEP * math.ceil(batch / (ranks * own))
    # A rank's parts of two batches lie apart, and another rank may be a micro-batch ahead.
    return math.ceil((math.ceil(KEEP / own) + 1) * batch / of)


def _cut_shards(sampling: OrderOptions) -> int:
    """Shards beyond its window that a lane has parts of: the next one, and one that it shares with another lane."""
    return 2 if sampling.lanes > 1 else 1


def _cache_bytes(data: ShardSet, shards: int, images: int) -> float:
    """Cache for so many of the largest shards, for a stretch of so many images more, and for an evaluation beside it.

    A stretch has its images' bytes, and at its two ends, of shards of which it has a part, a window's and one more.
    """
    table = data.manifest.splits["train"].table
    image_bytes = table.plain_bytes.sum() / max(1, table.samples.sum())
    return float(images * image_bytes + shards * table.plain_bytes.max()) / WINDOW_FRACTION


def training_order(config: TrainConfig, data: ShardSet, reader: SplitReader) -> Order:
    """The order of the training images that a resolved config describes.

    reader: of the training split. Raises CorruptShard if order balanced finds a damaged column, or, in a set without
    columns, other labels than the manifest counts.
    """
    sampling, seed = config.sampling, config.runtime.seed
    if sampling.order == "windowed":
        return WindowedOrder(
            data.manifest.splits["train"].table.samples.tolist(),
            seed=seed,
            window=sampling.window,
            lanes=sampling.lanes,
            batch_size=config.optimization.batch_size,
        )
    if sampling.order == "balanced":
        samples = data.manifest.splits["train"].samples_per_class
        draws = draws_per_class(samples, sampling.draws_per_class, exponent=sampling.draw_exponent)
        counts = np.array(samples, np.int64)
        return BalancedOrder(by_class=reader.columns.by_class(), counts=counts, draws=draws, seed=seed)
    return SampleOrder(samples=reader.samples, seed=seed)
