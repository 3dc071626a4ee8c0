"""Images that stay on the device: the same batches, and nothing sent twice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kkanji.augment.policy import Policy
from kkanji.data.codec import decode_into
from kkanji.data.dali import Loader
from kkanji.data.feed import Feed, external_source
from kkanji.data.resident import ResidentImages
from shards import BalancedOrder, CorruptShard, Order, SampleOrder, ShardSet, SplitReader
from shards.cache.cache import Cache
from tests.kkanji.data import stub_gpu
from tests.shards.kinds import CLASSES, drawn, write_set_of

CPU = torch.device("cpu")
SAMPLES, BATCH = 60, 16
SPANS = [(start, start + BATCH) for start in range(0, 3 * SAMPLES, BATCH)]  # three epochs, batches across their ends
other_gpu = map(torch.device, (f"cuda:{number}" for number in count(20)))  # a device's pipeline outlasts its loader


@pytest.fixture(scope="module", params=["none", "zstd", "png"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SplitReader:
    """Of a set used in place, one brought into a cache, and one of files to decode."""
    folder = tmp_path_factory.mktemp("set")
    write_set_of(folder / "set", request.param, {"train": [drawn(20, number) for number in range(3)]})
    cache = Cache(folder / "cache", 1 << 24)
    return ShardSet(folder / "set", cache=cache, decode=decode_into).split("train")


def full(reader: SplitReader) -> Order:
    return SampleOrder(samples=reader.samples, seed=3)


def balanced(reader: SplitReader) -> Order:
    """Images of rare classes come several times in an epoch, those of others once in two."""
    return BalancedOrder(labels=reader.labels(), draws=np.array([50, 2, 8]), seed=3)


def feed_of(reader: SplitReader, order: Order, policy: Policy | None, device: torch.device | None = None) -> Feed:
    resident = device and ResidentImages(reader.samples, device)
    return Feed(reader=reader, order=order, classes=CLASSES, policy=policy, resident=resident)


def batches(feed: Feed, spans: list[tuple[int, int]], device: torch.device = CPU) -> list[torch.Tensor]:
    """Images and labels of each batch."""
    with Loader(feed, spans, device, largest=BATCH) as loader:
        return [torch.cat([batch.images.flatten(1).long(), batch.labels[:, None]], dim=1) for batch in loader]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one, other), number


@pytest.mark.parametrize("order", [full, balanced])
@pytest.mark.parametrize("policy", [None, Policy()], ids=["as they are", "augmented"])
def test_batches_are_those_of_the_host(
    reader: SplitReader, order: Callable[[SplitReader], Order], policy: Policy | None
) -> None:
    feed = feed_of(reader, order(reader), policy, CPU)
    assert_equal(batches(feed, SPANS), batches(replace(feed, resident=None), SPANS))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> stub_gpu.StubGpu:
    return stub_gpu.install(monkeypatch)


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from the host"])
@pytest.mark.parametrize("policy", [None, Policy()], ids=["as they are", "augmented"])
def test_a_gpus_graph_gives_the_batches_of_a_cpu(
    reader: SplitReader, policy: Policy | None, resident: bool, gpu: stub_gpu.StubGpu
) -> None:
    """Its operators, run on the CPU, the kernel by Triton's interpreter: bit for bit."""
    spans = [*SPANS[:2], (58, 59), (62, 70)]
    device = next(other_gpu)
    feed = feed_of(reader, full(reader), policy, CPU if resident else None)
    found = batches(feed, spans, device)
    assert_equal(found, batches(replace(feed, resident=None), spans))
    assert gpu.named("synchronize") == [None]
