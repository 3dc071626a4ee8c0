"""Rows of docs/FAULTS.md about the loader: labels that are none, threads that die, stops at any step, memory."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kkanji.augment.policy import Policy
from kkanji.data.dali import Loader
from kkanji.data.feed import Feed
from shards import (
    CorruptShard,
    Lineage,
    Manifest,
    SampleOrder,
    ShardSet,
    Split,
    SplitReader,
    shard_name,
    write_manifest,
    write_shard,
)
from shards.cache.cache import Cache
from shards.read.files import SplitFiles
from shards.read.packed import PackedReader
from tests.shards.kinds import CLASSES, drawn, write_labels, write_set_of

CPU = torch.device("cpu")
BATCH = 10
IN_A_SHARD = 10


def feed_of(reader: SplitReader, policy: Policy | None = None) -> Feed:
    order = SampleOrder(samples=reader.samples, seed=1, shuffle=False)
    return Feed(reader=reader, order=order, classes=CLASSES, policy=policy)


def spans(samples: int, epochs: int = 1, first: int = 0) -> list[tuple[int, int]]:
    return [(start, start + BATCH) for start in range(first, epochs * samples, BATCH)]


@pytest.mark.parametrize("label", [CLASSES, -1, 1 << 31], ids=["C", "-1", "2**31"])
def test_a_stored_label_out_of_range_is_refused_on_the_host(tmp_path: Path, label: int) -> None:
    """2**31 is stored as -2**31. The batch that has it is not given out."""
    labels = np.zeros(40, np.int64)
    labels[25] = label
    reader = ShardSet(write_labels(tmp_path, labels)).split("train")
    served = 0
    with Loader(feed_of(reader), spans(40), CPU, largest=BATCH) as loader:
        with pytest.raises(CorruptShard, match=r"labels .*, expected 0\.\.2; run `kkanji verify` on the set"):
            for _ in loader:
                served += 1
    assert served <= 2


@pytest.fixture(scope="module", params=["none", "zstd"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """100 images, used in place or brought into a cache."""
    folder = tmp_path_factory.mktemp("set")
    write_set_of(folder / "set", request.param, {"train": [drawn(IN_A_SHARD, number) for number in range(10)]})
    return ShardSet(folder / "set", cache=Cache(folder / "cache", 1 << 24))


ERRORS = [OSError, MemoryError, StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt]


def broken(call: Callable[..., Any], error: type[BaseException], after: int) -> Callable[..., Any]:
    """The call, which raises from the so-manieth time on."""
    calls = iter(range(1 << 30))

    def instead(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= after:
            raise error("injected")
        return call(*arguments, **options)

    return instead


def assert_not_short(loader: Loader, at_most: int) -> None:
    """What is served before is right, and then there is an error: never an end."""
    served = 0
    with pytest.raises(BaseException) as caught:
        for batch in loader:
            assert np.array_equal(batch.labels.numpy(), drawn(IN_A_SHARD, served).labels)
            served += 1
    assert not isinstance(caught.value, StopIteration)
    assert served <= at_most


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_the_loaders_thread_is_never_a_short_epoch(
    data: ShardSet, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    reader = data.split("train")
    assert isinstance(reader, PackedReader)
    monkeypatch.setattr(reader, "locate", broken(reader.locate, error, 3))
    with Loader(feed_of(reader), spans(100), CPU, largest=BATCH) as loader:
        assert_not_short(loader, 3)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_a_fetching_thread_is_never_a_short_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Three shards of ten are fetched, then none."""
    write_sharded(tmp_path / "set")
    monkeypatch.setattr(SplitFiles, "obtain", broken(SplitFiles.obtain, error, 6))  # each ahead of use, and for use
    reader = ShardSet(tmp_path / "set", cache=Cache(tmp_path / "cache", 1 << 24)).split("train")
    with Loader(feed_of(reader), spans(100), CPU, largest=BATCH) as loader:
        assert_not_short(loader, 6)


def write_sharded(folder: Path) -> None:
    """Ten shards of ten images, compressed."""
    folder.mkdir()
    shards = []
    for number in range(10):
        samples = drawn(IN_A_SHARD, number)
        shards.append(write_shard(folder / shard_name("train", number), [samples], compression="zstd"))
    labels = np.concatenate([drawn(IN_A_SHARD, number).labels for number in range(10)])
    counts = tuple(np.bincount(labels, minlength=CLASSES).tolist())
    split = Split(shards=tuple(shards), samples_per_class=counts, originals_per_class=counts)
    manifest = Manifest(
        name="", licence="", lineage=Lineage.KNOWN, classes=CLASSES, seed=0, compression="zstd", splits={"train": split}
    )
    write_manifest(folder, manifest, "{}")


def test_a_reader_that_ends_early_is_never_a_short_epoch(data: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = data.split("train")
    follow, open_ones = reader.follow, []

    def short(requests: Iterator[Any], **options: Any) -> Iterator[Any]:
        open_ones.append(follow(requests, **options))  # closing it would unmap what is being read
        for _, numbers in zip(range(4), open_ones[-1], strict=False):
            yield numbers

    monkeypatch.setattr(reader, "follow", short)
    with Loader(feed_of(reader), spans(100), CPU, largest=BATCH) as loader:
        assert_not_short(loader, 4)


@pytest.mark.parametrize("policy", [None, Policy()], ids=["as they are", "augmented"])
def test_a_stop_at_every_step_has_the_same_tail(data: ShardSet, policy: Policy | None) -> None:
    reader = data.split("train")
    feed = Feed(reader=reader, order=SampleOrder(samples=100, seed=5), classes=CLASSES, policy=policy)
    whole = tail_of(feed, 0)
    assert len(whole) == 20
    for step in range(20):
        for found, expected in zip(tail_of(feed, step), whole[step:], strict=True):
            assert torch.equal(found, expected), step


def tail_of(feed: Feed, step: int) -> list[torch.Tensor]:
    """Images and labels of each batch of two epochs from a step on."""
    with Loader(feed, spans(100, 2, step * BATCH), CPU, largest=BATCH) as loader:
        return [torch.cat([batch.images.flatten(1).long(), batch.labels[:, None]], dim=1) for batch in loader]


def test_twenty_epochs_grow_nothing(data: ShardSet) -> None:
    """Memory, open files and threads after the second epoch and after the last."""
    reader, seen = data.split("train"), []
    with Loader(feed_of(reader, Policy()), spans(100, 20), CPU, largest=BATCH) as loader:
        for number, _ in enumerate(loader, 1):
            if number % 10 == 0:
                seen.append((resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()))
    grown = seen[18][0] - seen[1][0]  # the last epoch's last batch comes when the fetching threads have ended
    assert len(seen) == 20 and grown < 8 << 20
    assert seen[18][1:] <= seen[1][1:], seen


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
