"""Images that stay on the device: the same batches, and nothing sent twice."""

from collections.abc import Callable, Iterator
from dataclasses import replace
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
from shards import CorruptShard, Order, SampleOrder, ShardSet, SplitReader
from shards.cache.cache import Cache
from tests.kkanji.augment.triton_interpreter import interpreted
from tests.kkanji.data.stub_gpu import StubGpu, install
from tests.kkanji.data.test_fault_loader import write_sharded
from tests.shards.kinds import CLASSES, Kind, drawn, write_set_of
from tests.shards.order.labelled import balanced as balanced_order

CPU = torch.device("cpu")
SAMPLES, BATCH = 60, 16
SPANS = [(start, start + BATCH) for start in range(0, 3 * SAMPLES, BATCH)]  # three epochs, batches across their ends
GPU = torch.device("cuda", 8)


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
    return balanced_order(reader.labels(), np.array([50, 2, 8]), seed=3)


def feed_of(reader: SplitReader, order: Order, policy: Policy | None, device: torch.device | None = None) -> Feed:
    resident = ResidentImages(reader.samples, device) if device else None
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
def gpu(monkeypatch: pytest.MonkeyPatch) -> StubGpu:
    return install(monkeypatch)


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from the host"])
@pytest.mark.parametrize("policy", [None, Policy()], ids=["as they are", "augmented"])
def test_a_gpus_graph_gives_the_batches_of_a_cpu(
    reader: SplitReader, policy: Policy | None, resident: bool, gpu: StubGpu
) -> None:
    """Its operators, run on the CPU, are waited for once, at the end."""
    feed = feed_of(reader, full(reader), policy, CPU if resident else None)
    found = batches(feed, SPANS, GPU)
    assert_equal(found, batches(replace(feed, resident=None), SPANS))
    assert gpu.named("synchronize") == [None]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("kind", "resident"), [("none", True), ("png", False)])
def test_with_the_gpus_own_kernel(kind: Kind, resident: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter of Triton, which takes a second for an image."""
    write_set_of(tmp_path / "set", kind, {"train": [drawn(20)]})
    reader = ShardSet(tmp_path / "set", decode=decode_into).split("train")
    feed = feed_of(reader, full(reader), Policy(), CPU if resident else None)
    expected = batches(replace(feed, resident=None), [(0, 3)])
    monkeypatch.setattr("kkanji.augment.triton_kernels", interpreted())
    assert_equal(batches(feed, [(0, 3)], GPU), expected)


def test_files_are_augmented_on_a_stream_that_waits_for_no_step(gpu: StubGpu, tmp_path: Path) -> None:
    """DALI brings them there, and the step waits for it. In the graph, DALI would hand over each image by itself."""
    write_set_of(tmp_path / "set", "png", {"train": [drawn(20)]})
    reader = ShardSet(tmp_path / "set", decode=decode_into).split("train")
    batches(feed_of(reader, full(reader), Policy()), [(0, 5)], GPU)
    own, used = "own stream on cuda:8", "stream in use on cuda:8"
    calls = [(name, given) for name, given in gpu.log if name in ("run", "on", "wait")]
    assert calls == [("run", own), ("on", own), ("wait", (used, own)), ("run", own)]


@pytest.mark.parametrize("on_host", [False, True])
def test_pixels_are_brought_once(reader: SplitReader, on_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards a batch of 6,250 is 0.26 kB an image: two numbers, a label and a row of 62; and nobody reads."""
    feed = feed_of(reader, full(reader), Policy(), CPU)
    source = external_source(feed, [(0, SAMPLES), *[(0, 6_250)] * 3], on_host=on_host)
    first = size_of(source())
    monkeypatch.setattr(reader, "gather", refuse_images(reader.gather))
    later = [size_of(source()) / 6_250 for _ in range(3)]
    assert all(size < 272 for size in later), later
    assert first > SAMPLES * (0 if on_host else 4096)
    source.close()


def size_of(arrays: list[Any]) -> int:
    return sum(array.nbytes for array in arrays)


def refuse_images(gather: Callable[..., Any]) -> Callable[..., Any]:
    """A gather that no sample may be asked of."""

    def instead(numbers: np.ndarray, **options: Any) -> Any:
        assert not len(numbers)
        return gather(numbers, **options)

    return instead


def test_a_streamed_set_is_fetched_once_whatever_its_cache_holds(tmp_path: Path) -> None:
    """Of ten shards, with room for three."""
    write_sharded(tmp_path / "set")
    size = sum(shard.plain_bytes for shard in ShardSet(tmp_path / "set").manifest.splits["train"].shards)
    reader = ShardSet(tmp_path / "set", cache=Cache(tmp_path / "cache", size * 3 // 10)).split("train")
    order = SampleOrder(samples=100, seed=0, shuffle=False)
    feed = Feed(reader=reader, order=order, classes=CLASSES, resident=ResidentImages(100, CPU))
    spans = [(start, start + 10) for start in range(0, 500, 10)]
    found = batches(feed, spans)
    assert_equal(found[10:20], found[:10])
    assert reader.traffic()["made"] == 10


@pytest.mark.parametrize("reader", ["zstd"], indirect=True)
def test_batches_that_need_nothing_are_not_looked_through_to_the_end(reader: SplitReader) -> None:
    """In search of the next shard to fetch: the stream is the whole run's."""
    taken = []

    def requests() -> Iterator[np.ndarray]:
        yield np.array([0])
        for number in range(100_000):
            taken.append(number)
            yield np.array([], np.int64)

    followed = reader.follow(requests())
    assert next(followed).tolist() == [0]
    followed.close()
    assert len(taken) < 5_000


@pytest.mark.parametrize("reader", ["zstd"], indirect=True)
def test_a_stop_goes_on_with_the_same_batches(reader: SplitReader) -> None:
    """By a new loader, on images of which some are there: those that were delivered, not what was read ahead."""
    feed, stop = feed_of(reader, full(reader), None, CPU), 2
    expected = batches(replace(feed, resident=None), SPANS)
    resident = feed.resident
    assert resident is not None
    with Loader(feed, SPANS, CPU, largest=BATCH) as loader:
        assert len(list(zip(range(stop), loader, strict=False))) == stop
    assert np.array_equal(np.flatnonzero(resident.present), np.sort(feed.order.at(0, SPANS[stop][0])))
    resident.images[torch.from_numpy(np.flatnonzero(~resident.present))] = 77  # which no batch may show
    assert_equal(batches(feed, SPANS[stop:]), expected[stop:])


@pytest.mark.parametrize("reader", ["none"], indirect=True)
def test_a_reader_that_ends_early_is_never_a_short_epoch(reader: SplitReader, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = reader.follow

    def short(requests: Iterator[Any], **options: Any) -> Iterator[Any]:
        yield from (numbers for _, numbers in zip(range(2), follow(requests, **options), strict=False))

    monkeypatch.setattr(reader, "follow", short)
    with pytest.raises(RuntimeError, match="ended early"):
        batches(feed_of(reader, full(reader), None, CPU), SPANS)


@pytest.mark.parametrize("reader", ["none"], indirect=True)
def test_a_label_out_of_range_is_refused(reader: SplitReader) -> None:
    feed = replace(feed_of(reader, full(reader), None, CPU), classes=2)
    with pytest.raises(CorruptShard, match=r"labels 0\.\.2, expected 0\.\.1"):
        batches(feed, SPANS)


@pytest.mark.gpu
@pytest.mark.parametrize("reader", ["none"], indirect=True)
def test_a_gpus_memory_gives_the_batches_of_the_host(reader: SplitReader) -> None:
    """And augmented ones to one gray level."""
    device = torch.device("cuda", 0)
    for policy in (None, Policy()):
        feed = feed_of(reader, full(reader), policy, device)
        for one, other in zip(batches(feed, SPANS, device), batches(replace(feed, resident=None), SPANS), strict=True):
            assert (one.cpu() - other).abs().max() <= 1
