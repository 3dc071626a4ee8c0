import gc
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from threading import active_count
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from nvidia.dali import ops
from torch.utils import dlpack

from kkanji.augment.numba_kernels import ROW
from kkanji.augment.policy import Policy, apply, sample_rows
from kkanji.data.codec import decode_into
from kkanji.data.dali import GraphOptions, Loader, TorchFunction, build_graph
from kkanji.data.feed import Feed
from kkanji.evaluation.predict_split import unaugmented_feed
from shards import CorruptShard, SampleOrder, ShardSet
from tests.kkanji.data.stub_gpu import StubGpu, install
from tests.shards.kinds import CLASSES, drawn, write_set_of

CPU = torch.device("cpu")
STRETCHES = [(0, 40), (40, 57), (57, 58), (100, 140), (200, 240)]


def feed(folder: Path, policy: Policy | None, seed: int = 3) -> Feed:
    reader = ShardSet(folder).split("train")
    order = SampleOrder(samples=reader.samples, seed=seed)
    return Feed(reader=reader, order=order, classes=6, policy=policy)


@pytest.mark.parametrize("policy", [None, Policy()])
def test_batches_are_the_policy_applied_to_the_stream(tiny_set: Path, policy: Policy | None) -> None:
    source = feed(tiny_set, policy)
    with Loader(source, STRETCHES, CPU, largest=40) as loader:
        batches = list(loader)
    assert len(batches) == len(STRETCHES)
    for batch, (start, stop) in zip(batches, STRETCHES, strict=True):
        images, labels, _ = source.reader.gather(source.order.at(start, stop))
        if policy is not None:
            images = apply(images, sample_rows(policy, 3, np.arange(start, stop)))
        assert np.array_equal(batch.images.numpy(), images[:, None])
        assert np.array_equal(batch.labels.numpy(), labels)
        assert batch.labels.dtype == torch.int64


def test_plain_feed_is_the_split_in_stored_order(tiny_set: Path) -> None:
    reader = ShardSet(tiny_set).split("val")
    with Loader(unaugmented_feed(reader, 6), [(0, reader.samples)], CPU, largest=reader.samples) as loader:
        (batch,) = loader
    assert np.array_equal(batch.labels.numpy(), reader.labels())


def test_waiting_is_measured(tiny_set: Path) -> None:
    with Loader(feed(tiny_set, None), STRETCHES, CPU, largest=40) as loader:
        list(loader)
        assert loader.wait_s > 0


def test_batches_take_turns_in_the_same_memory(tiny_set: Path) -> None:
    size, batches = 2_000, 60
    spans = [(start, start + size) for start in range(0, batches * size, size)]
    with Loader(feed(tiny_set, None), spans, CPU, largest=size) as loader:
        steady = islice(loader, 20, None)
        next(steady)
        before = getrusage(RUSAGE_SELF).ru_minflt
        left = sum(1 for _ in steady)
        faults = getrusage(RUSAGE_SELF).ru_minflt - before
    assert faults / left < 20  # pages of a batch's 2,000 that the system gave anew; 300 by malloc


def test_an_error_of_the_stretches_reaches_the_consumer(tiny_set: Path) -> None:
    def broken() -> Iterator[tuple[int, int]]:
        yield (0, 10)
        raise OSError("the disk went away")

    with Loader(feed(tiny_set, None), broken(), CPU, largest=10) as loader:
        with pytest.raises(OSError, match="the disk went away"):
            list(loader)


def test_a_label_out_of_range_is_refused_on_the_host(tiny_set: Path) -> None:
    reader = ShardSet(tiny_set).split("train")
    narrow = Feed(reader=reader, order=SampleOrder(samples=reader.samples, seed=0), classes=5)
    with Loader(narrow, [(0, reader.samples)], CPU, largest=reader.samples) as loader:
        with pytest.raises(CorruptShard, match=r"labels 0\.\.5, expected 0\.\.4"):
            list(loader)


def test_closing_early_ends_all_threads(tiny_set: Path) -> None:
    before = active_count()
    endless = ((start, start + 10) for start in range(0, 10**9, 10))
    with Loader(feed(tiny_set, Policy()), endless, CPU, largest=10) as loader:
        next(iter(loader))
    assert active_count() <= before + os.cpu_count()  # type: ignore[operator]  # the augmentation's pool stays


def operators(options: GraphOptions) -> list[tuple[str, str]]:
    """Name and device of each operator, in the order of the data's way through them; copies to the GPU left out."""

    def source() -> list[np.ndarray]:
        raise StopIteration

    pipeline = build_graph(source, options, (lambda: torch.empty(0)) if options.inputs == "numbers" else None)
    pipeline._build_graph()  # checks the graph against every operator's schema, which needs no GPU
    found = []
    for operator in pipeline._ops:
        device = next(
            name for name in ("mixed", "gpu", "cpu") if f"device: {name}" in repr(operator.spec) or name == "cpu"
        )
        found.append((type(operator._op).__name__, device))
    return [entry for entry in found if entry[0] != "ExternalSource" and "Copy" not in entry[0]]


COMPILED, BY_TORCH = ("_Callback", "cpu"), ("DLTensorPythonFunction", "gpu")


@pytest.mark.parametrize("augmented", [False, True])
def test_the_graph_on_the_cpu(augmented: bool) -> None:
    assert operators(GraphOptions(device_id=None, augmented=augmented)) == [COMPILED]
    decoder = ("Image", "cpu")
    assert (
        operators(GraphOptions(device_id=None, augmented=augmented, inputs="files"))
        == [decoder, COMPILED][: 1 + augmented]
    )


@pytest.mark.parametrize("augmented", [False, True])
def test_the_graph_on_a_gpu(augmented: bool) -> None:
    """Constructed, and so checked by DALI's schemas, without a GPU; it is not run here."""
    assert operators(GraphOptions(device_id=0, augmented=augmented)) == [COMPILED, BY_TORCH][: 1 + augmented]
    assert operators(GraphOptions(device_id=0, augmented=augmented, inputs="files")) == [("Image", "mixed")]
    assert operators(GraphOptions(device_id=0, augmented=augmented, inputs="numbers")) == [BY_TORCH]


@pytest.fixture(scope="module", params=["png", "jpg"])
def encoded_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("encoded") / "set"
    write_set_of(folder, request.param, {"train": [drawn(20, number) for number in range(3)]})
    return folder


@pytest.mark.parametrize("policy", [None, Policy()])
def test_encoded_images_are_decoded_and_augmented_by_dali(encoded_set: Path, policy: Policy | None) -> None:
    """As OpenCV decodes them, and as the reference augments them."""
    reader = ShardSet(encoded_set, decode=decode_into).split("train")
    order = SampleOrder(samples=reader.samples, seed=3)
    spans = [(0, 16), (16, 17), (55, 65)]  # of different lengths, and over the end of an epoch
    with Loader(Feed(reader=reader, order=order, classes=CLASSES, policy=policy), spans, CPU, largest=16) as loader:
        for batch, (start, stop) in zip(loader, spans, strict=True):
            images, labels, _ = reader.gather(order.at(start, stop))
            if policy is not None:
                images = apply(images, sample_rows(policy, 3, np.arange(start, stop)))
            assert np.array_equal(batch.images.numpy(), images[:, None])
            assert np.array_equal(batch.labels.numpy(), labels)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    """Its size says 64x64, its pixels cannot be decoded: DALI refuses the batch, and the image is looked for."""
    write_set_of(tmp_path / "set", "png", {"train": [drawn(20)]})
    path = tmp_path / "set" / "train-00000.tar"
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT", data.index(b"IDAT") + 4)  # the second image's pixels
    data[at + 4 : at + 40] = bytes(36)
    path.write_bytes(data)
    reader = ShardSet(tmp_path / "set", decode=decode_into).split("train")
    with Loader(unaugmented_feed(reader, CLASSES), [(0, 20)], CPU, largest=20) as loader:
        with pytest.raises(CorruptShard, match=r"train-00000\.tar: image at byte \d+: its pixels cannot be decoded"):
            list(loader)


def test_the_strength_follows_the_epoch(tiny_set: Path) -> None:
    reader = ShardSet(tiny_set).split("train")
    order, samples = SampleOrder(samples=reader.samples, seed=3), reader.samples
    only_first = Feed(reader=reader, order=order, classes=6, policy=Policy(), strength=lambda epoch: float(epoch == 0))
    with Loader(only_first, [(samples - 5, samples + 5)], CPU, largest=10) as loader:
        (batch,) = loader
    plain = reader.gather(order.at(samples - 5, samples + 5)).images
    same = (batch.images.numpy()[:, 0] == plain).all(axis=(1, 2))
    assert not same[:5].any()
    assert same[5:].all()


class OnGpu(torch.Tensor):
    """A CPU tensor that says it is on the second GPU, and notes on which stream it is computed with."""

    streams: ClassVar[list[Any]] = []
    notes: ClassVar[list[tuple[str, Any]]] = []

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, given: Any = (), named: Any = None) -> Any:
        if function == torch.Tensor.device.__get__:
            return torch.device("cuda", 1)
        cls.notes.append((function.__name__, cls.streams[-1] if cls.streams else None))
        return super().__torch_function__(function, kinds, given, named or {})  # type: ignore[no-untyped-call]


@pytest.fixture
def stub_gpu(monkeypatch: pytest.MonkeyPatch) -> type[OnGpu]:
    """torch.cuda's streams without a GPU. There is nothing to synchronise by: who would have the host wait fails."""

    @contextmanager
    def current(stream: Any) -> Iterator[None]:
        OnGpu.streams.append(stream)
        yield
        OnGpu.streams.pop()

    from_dlpack = dlpack.from_dlpack
    OnGpu.notes.clear()
    monkeypatch.setattr(
        torch, "cuda", SimpleNamespace(stream=current, ExternalStream=lambda *of, device: (*of, device))
    )
    monkeypatch.setattr(dlpack, "from_dlpack", lambda capsule: from_dlpack(capsule).as_subclass(OnGpu))
    monkeypatch.setattr(ops.PythonFunction, "current_stream", lambda: SimpleNamespace(ptr=0x5EED))
    return OnGpu


def test_on_a_gpu_all_is_queued_on_the_stream_of_dali(stub_gpu: type[OnGpu]) -> None:
    """DALI brings the inputs and copies the result on it: neither the host nor the training step is waited for.

    The result's memory must belong to that stream too, or torch gives it away while DALI still copies it.
    """

    def brightened(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return images + rows[..., :1, None, None].byte()

    images, rows = torch.arange(2).byte().repeat_interleave(4096).view(2, 1, 64, 64, 1), torch.full((2, 1, ROW), 7.0)
    capsules = [[dlpack.to_dlpack(part) for part in parts] for parts in (images, rows)]  # type: ignore[attr-defined]
    found = [dlpack.from_dlpack(part).as_subclass(torch.Tensor) for part in TorchFunction(brightened)(*capsules)]
    assert torch.equal(torch.stack(found), images + 7)
    queued = [stream for name, stream in stub_gpu.notes if name in ("stack", "add")]
    assert queued == [(0x5EED, torch.device("cuda", 1))] * 3
    assert not stub_gpu.streams


def test_dali_does_not_have_the_host_wait_before_the_gpus_function() -> None:
    pipeline = build_graph(lambda: [], GraphOptions(device_id=0, augmented=True))
    pipeline._build_graph()
    (function,) = [operator for operator in pipeline._ops if "PythonFunction" in type(operator._op).__name__]
    assert "synchronize_stream: False" in repr(function.spec)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> StubGpu:
    return install(monkeypatch)


def test_a_batch_is_brought_on_the_stream_that_uses_it(tiny_set: Path, gpu: StubGpu) -> None:
    """DALI orders its outputs on it. Run without a stream, it would have the host wait for each batch."""
    with Loader(feed(tiny_set, None), STRETCHES[:2], torch.device("cuda", 1), largest=40) as loader:
        assert len(list(loader)) == 2
    assert set(gpu.named("run")) == {"stream in use on cuda:1"} == {stream.name for stream in gpu.named("record")}


@pytest.mark.parametrize("idle", [True, False])
def test_batches_are_held_until_a_gpu_is_done_with_them(tiny_set: Path, gpu: StubGpu, idle: bool) -> None:
    """Of a busy one all, until the loader is closed, which waits for it; an idle one needs none of them."""
    gpu.idle = idle
    held: list[weakref.ref[torch.Tensor]] = []
    with Loader(feed(tiny_set, None), STRETCHES, torch.device("cuda", 6), largest=40) as loader:
        for batch in loader:
            held.append(weakref.ref(batch.images))
        del batch
        gc.collect()
        assert [each() is not None for each in held] == [not idle] * len(STRETCHES)
        assert gpu.named("synchronize") == []
    assert len(gpu.named("synchronize")) == 1
    assert not any(each() for each in held)


def test_a_consumer_that_breaks_off_has_its_last_batch_held_as_well(tiny_set: Path, gpu: StubGpu) -> None:
    gpu.idle = False
    with Loader(feed(tiny_set, None), STRETCHES, torch.device("cuda", 6), largest=40) as loader:
        batches = iter(loader)
        last = weakref.ref(next(batches).images)
        batches.close()  # type: ignore[attr-defined]
        assert last() is not None
    assert last() is None


def test_a_gpu_that_failed_leaves_nothing_open(tiny_set: Path, gpu: StubGpu) -> None:
    """The error that the wait raises is passed on; threads end and shards are released all the same."""
    gpu.failed = True
    before = active_count()
    loader = Loader(feed(tiny_set, None), STRETCHES, torch.device("cuda", 6), largest=40)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        loader.close()
    assert active_count() <= before


@pytest.mark.gpu
def test_gpu_batches_equal_cpu_batches(tiny_set: Path) -> None:
    for policy in (None, Policy()):
        with Loader(feed(tiny_set, policy), STRETCHES, CPU, largest=40) as loader:
            on_cpu = [batch.images.int() for batch in loader]
        with Loader(feed(tiny_set, policy), STRETCHES, torch.device("cuda", 0), largest=40) as loader:
            on_gpu = [batch.images.int().cpu() for batch in loader]
        for one, other in zip(on_cpu, on_gpu, strict=True):
            assert (one - other).abs().max() <= 1
