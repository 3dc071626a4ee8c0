"""Which order a run gets, from its options and from what its machine has room for."""

import re
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kkanji.config import TrainConfig, train_config
from kkanji.data.resident import resident_images
from kkanji.data.training_set import (
    KEEP,
    check_options,
    class_map,
    fits,
    open_set,
    require_room,
    resolve_order,
    resolve_residence,
    room_bytes,
    training_order,
    whole_bytes,
)
from kkanji.training.schedule import Rank, spans
from shards import BalancedOrder, InputError, Plan, SampleOrder, ShardSet, StorageError, WindowedOrder
from shards.cache.cache import Cache
from shards.order.sequential import numbers_of
from tests.making import cut_up
from tools.commands.convert import convert

CONFIG = train_config(data="data", output=Path("runs/x"), batch_size=16)


@pytest.fixture(scope="module")
def compressed(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compressed") / "set"
    convert(str(tiny_set), output=output, compression="zstd")
    return output


def cached(folder: Path, cache: Path, sets: float) -> ShardSet:
    """With room for so many times the set."""
    splits = ShardSet(folder).manifest.splits.values()
    size = sum(shard.plain_bytes for split in splits for shard in split.shards)
    return ShardSet(folder, cache=Cache(cache, int(size * sets)))


def settled(config: TrainConfig, data: ShardSet) -> TrainConfig:
    """As on a machine by itself."""
    result = resolve_order(config, data, room_bytes(data))
    require_room(result, data, ranks=1, here=1)
    return result


def test_a_local_set_is_shuffled_as_a_whole(tiny_set: Path) -> None:
    data = ShardSet(tiny_set)
    config = settled(CONFIG, data)
    assert config.sampling.order == "full"
    assert isinstance(training_order(config, data, data.split("train")), SampleOrder)


def test_a_set_that_fits_into_the_cache_too(compressed: Path, tmp_path: Path) -> None:
    assert settled(CONFIG, cached(compressed, tmp_path, 1.1)).sampling.order == "full"


def test_what_fits(tiny_set: Path, compressed: Path, tmp_path: Path) -> None:
    assert fits(ShardSet(tiny_set)) and fits(cached(compressed, tmp_path, 1.0))
    assert not fits(cached(compressed, tmp_path, 0.99))


def test_a_larger_one_gets_a_window_that_fits(compressed: Path, tmp_path: Path) -> None:
    data = cached(compressed, tmp_path, 0.9)
    with pytest.raises(InputError, match=r"of cache, there are .*give a --cache-size of 0\.\d+ or more$"):
        settled(CONFIG, data)  # one shard of most of the cache
    wide = ShardSet(compressed, cache=Cache(tmp_path, 10**9))
    config = settled(CONFIG.with_options(order="windowed"), wide)
    assert config.sampling.window == 8
    order = training_order(config, wide, wide.split("train"))
    assert isinstance(order, WindowedOrder) and order.samples == 108


@pytest.fixture(scope="module")
def small_shards(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 shards of three images."""
    return cut_up(tiny_set, tmp_path_factory.mktemp("small") / "set", in_a_shard=3, compression="zstd")


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 12), (1, 4), (2, 6), (2, 3)])
def test_batches_of_many_shards_find_the_room_that_is_asked_for(
    small_shards: Path, tmp_path: Path, ranks: int, micro_batch: int
) -> None:
    """And with less than that it is refused, before the first step."""
    config = CONFIG.with_options(order="windowed", window=1, batch_size=12, micro_batch=micro_batch)
    needed = least_room(config, small_shards, tmp_path, ranks)
    assert needed < whole_bytes(ShardSet(small_shards))
    assert steps_with_room(config, small_shards, tmp_path / "enough", ranks, needed) == 18
    with pytest.raises((StorageError, InputError), match="give a --cache-size of"):
        steps_with_room(config, small_shards, tmp_path / "four", ranks, needed // 4)


def least_room(config: TrainConfig, folder: Path, cache: Path, ranks: int) -> int:
    """The smallest cache that is not refused, in bytes."""

    def accepted(size: int) -> bool:
        try:
            require_room(config, ShardSet(folder, cache=Cache(cache, size)), ranks=ranks, here=ranks)
        except InputError as error:
            assert re.search(
                r"images of the batches in progress take .*; give a --cache-size of 0\.00\d or more$", str(error)
            )
            return False
        return True

    return bisect_left(range(10**7), True, key=accepted)


def steps_with_room(config: TrainConfig, folder: Path, cache: Path, ranks: int, size: int) -> int:
    """Steps of two epochs in which all ranks, who share a cache of so many bytes, had their images."""
    data = [ShardSet(folder, cache=Cache(cache, size, wait_s=0.3)) for _ in range(ranks)]
    readers = [each.split("train") for each in data]
    order = training_order(config, data[0], readers[0])
    plan = Plan(samples=order.samples, epochs=2, batch_size=config.optimization.batch_size)
    parts = [Rank(index=index, count=ranks) for index in range(ranks)]
    own = [numbers_of(order, spans(plan, 0, rank, config.runtime.micro_batch)) for rank in parts]
    streams = [reader.follow(numbers, keep=KEEP) for reader, numbers in zip(readers, own, strict=True)]
    turns = sum(
        all(len(reader.gather(each).labels) for reader, each in zip(readers, numbers, strict=True))
        for numbers in zip(*streams, strict=True)
    )
    for each in data:
        each.cache.close()
    return turns * ranks * config.runtime.micro_batch // config.optimization.batch_size


def test_a_smaller_room_elsewhere_decides(tiny_set: Path, compressed: Path, tmp_path: Path) -> None:
    """Also where this machine has all of the set at hand."""
    for data in (ShardSet(tiny_set), cached(compressed, tmp_path, 100)):
        config = resolve_order(CONFIG, data, whole_bytes(data) - 1)
        assert (config.sampling.order, config.sampling.window) == ("windowed", 1)


IMAGES = (108 + 36) * 4096  # of both splits


@pytest.mark.parametrize(
    ("asked", "device", "free", "expected"),
    [
        ("auto", "cuda", 2 * IMAGES, "device"),
        ("auto", "cpu", 2 * IMAGES, "host"),
        ("device", "cpu", 2 * IMAGES, "device"),
        ("host", "cuda", 2 * IMAGES, "host"),
        ("host", "cuda", 0, "host"),
        ("auto", "cuda", 2 * IMAGES - 1, "falls back"),
        ("device", "cpu", 2 * IMAGES - 1, "falls back"),
    ],
)
def test_images_stay_on_a_device_if_half_of_its_free_memory_holds_them(
    tiny_set: Path, asked: str, device: str, free: int, expected: str
) -> None:
    config, message = resolve_residence(CONFIG.with_options(residence=asked), ShardSet(tiny_set), device, free)
    assert config.dataset.residence == expected.replace("falls back", "host")
    assert bool(message) == (expected == "falls back")
    found = "0.00 GB of images, more than half of the 0.00 GB that a device has free; they stay on the host"
    assert message in ("", f"{tiny_set}: {found}")


def test_their_memory_is_taken_at_once(tiny_set: Path) -> None:
    """For both splits that a run reads, and one image more of each."""
    taken = resident_images(CONFIG.with_options(residence="device"), ShardSet(tiny_set), torch.device("cpu"))
    assert {name: images.images.nbytes for name, images in taken.items()} == {"train": 109 * 4096, "val": 37 * 4096}
    assert not resident_images(CONFIG.with_options(residence="host"), ShardSet(tiny_set), torch.device("cpu"))


def test_balanced_draws(tiny_set: Path) -> None:
    data = ShardSet(tiny_set)
    config = settled(CONFIG.with_options(order="balanced", draws_per_class=50), data)
    order = training_order(config, data, data.split("train"))
    assert isinstance(order, BalancedOrder)
    labels = data.split("train").labels()[order.at(0, order.samples)]
    assert np.bincount(labels).tolist() == [50] * 6


def test_the_class_map_comes_with_the_set(tiny_set: Path) -> None:
    assert len(class_map(open_set(tiny_set))) == 6
    assert open_set(str(tiny_set)).location == str(tiny_set)


def test_options_without_effect_on_a_set_are_warned_of_by_name(tiny_set: Path) -> None:
    """A local set needs no cache, and without a split val there is nothing to evaluate every so often."""
    data = open_set(tiny_set)
    config = train_config(data=str(tiny_set), output=Path("x"), batch_size=54, epochs=2, schedule="cosine")
    for options, found in (
        ({"cache_size": 5.0}, "--cache-size 5: no effect, as .* is read in place"),
        ({"max_steps": 3}, "--max-steps 3 of 4: the learning rate will not have fallen to 0 by then"),
    ):
        with pytest.warns(UserWarning, match=found):
            check_options(config.with_options(**options), data)
    unevaluated = {name: split for name, split in data.manifest.splits.items() if name != "val"}
    data.manifest = replace(data.manifest, splits=unevaluated)
    with pytest.warns(UserWarning, match=r"--evaluate-every 2: no effect, as .* has no split val"):
        check_options(config.with_options(evaluate_every=2), data)
