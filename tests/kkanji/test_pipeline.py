import os
from collections.abc import Iterator
from pathlib import Path
from threading import active_count

import numpy as np
import pytest
import torch
from torch.utils import dlpack

from kkanji import augment
from kkanji.augment import Policy
from kkanji.evaluate import plain_feed
from kkanji.pipeline import Feed, Loader, _augment_gpu, build_graph
from shards import CorruptShard, SampleOrder, ShardSet

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
            images = augment.apply(images, augment.draw(policy, 3, np.arange(start, stop)))
        assert np.array_equal(batch.images.numpy(), images[:, None])
        assert np.array_equal(batch.labels.numpy(), labels)
        assert batch.labels.dtype == torch.int64


def test_plain_feed_is_the_split_in_stored_order(tiny_set: Path) -> None:
    reader = ShardSet(tiny_set).split("val")
    with Loader(plain_feed(reader, 6), [(0, reader.samples)], CPU, largest=reader.samples) as loader:
        (batch,) = loader
    assert np.array_equal(batch.labels.numpy(), reader.labels())


def test_waiting_is_measured(tiny_set: Path) -> None:
    with Loader(feed(tiny_set, None), STRETCHES, CPU, largest=40) as loader:
        list(loader)
        assert loader.wait_s > 0


def test_an_error_in_the_thread_reaches_the_consumer(tiny_set: Path) -> None:
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


def test_closing_early_ends_the_thread(tiny_set: Path) -> None:
    before = active_count()
    endless = ((start, start + 10) for start in range(0, 10**9, 10))
    with Loader(feed(tiny_set, Policy()), endless, CPU, largest=10) as loader:
        next(iter(loader))
    assert active_count() <= before + os.cpu_count()  # type: ignore[operator]  # the augmentation's pool stays


def operators(*, device_id: int | None, augmented: bool) -> list[tuple[str, str]]:
    """Name and device of each operator, in the order of the data's way through them."""

    def source() -> list[list[np.ndarray]]:
        raise StopIteration

    pipeline = build_graph(source, device_id=device_id, augmented=augmented, threads=2)
    pipeline._build_graph()  # checks the graph against every operator's schema, which needs no GPU
    found = []
    for operator in pipeline._ops:
        device = "gpu" if "device: gpu" in repr(operator.spec) else "cpu"
        found.append((type(operator._op).__name__, device))
    return [entry for entry in found if entry[0] != "ExternalSource"]


def test_the_graph_on_the_cpu() -> None:
    assert operators(device_id=None, augmented=False) == [("NumbaFunction", "cpu")]
    assert operators(device_id=None, augmented=True) == [("NumbaFunction", "cpu")]


def test_the_graph_on_a_gpu_is_the_same_behind_copies() -> None:
    """Constructed, and so checked by DALI's schemas, without a GPU; it is not run here."""
    plain, augmented = (operators(device_id=0, augmented=value) for value in (False, True))
    assert [entry for entry in plain if "Copy" not in entry[0]] == [("NumbaFunction", "cpu")]
    steps = [entry for entry in augmented if "Copy" not in entry[0]]
    assert steps == [("NumbaFunction", "cpu"), ("DLTensorPythonFunction", "gpu")]


def test_the_gpu_function_takes_a_batch_in_parts() -> None:
    """Run on the CPU: the parts come back as augmented by the reference, to one gray level."""
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64), np.uint8)
    rows = augment.draw(Policy(), 0, np.arange(6))
    capsules = [
        [dlpack.to_dlpack(torch.from_numpy(part)) for part in np.split(array, 3)]  # type: ignore[attr-defined]
        for array in (images[..., None], rows)
    ]
    found = [dlpack.from_dlpack(part) for part in _augment_gpu(*capsules)]
    difference = torch.cat(found)[..., 0].int() - torch.from_numpy(augment.apply(images, rows)).int()
    assert [part.shape for part in found] == [(2, 64, 64, 1)] * 3
    assert difference.abs().max() <= 1


@pytest.mark.gpu
def test_gpu_batches_equal_cpu_batches(tiny_set: Path) -> None:
    for policy in (None, Policy()):
        with Loader(feed(tiny_set, policy), STRETCHES, CPU, largest=40) as loader:
            on_cpu = [batch.images.int() for batch in loader]
        with Loader(feed(tiny_set, policy), STRETCHES, torch.device("cuda", 0), largest=40) as loader:
            on_gpu = [batch.images.int().cpu() for batch in loader]
        for one, other in zip(on_cpu, on_gpu, strict=True):
            assert (one - other).abs().max() <= 1
