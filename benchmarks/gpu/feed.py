"""Parts about what feeds the device: the loader's images, its rate alone, and its waits beside a busy device."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from time import perf_counter

import torch

from benchmarks.gpu.bench import Bench, Measurement
from benchmarks.measure import FULL
from benchmarks.rows import Row
from benchmarks.train.random_set import random_set
from kkanji.augment.policy import Policy
from kkanji.data.dali import Batch, Loader
from kkanji.data.feed import Feed
from kkanji.data.training_set import PREFETCH
from kkanji.environment import loader_threads
from shards import SampleOrder, ShardSet

CLASSES = FULL["classes"]
LEAD = PREFETCH + 1  # batches that are ready before the clock starts
PRODUCTS = 40  # matrix products of side 8,192: about 60 ms of an H100, as long as a step of b0
POLICIES = {"plain": None, "augmented": Policy()}


def loader(bench: Bench) -> Iterator[Measurement]:
    """Images on the device against those of the CPU, the rate of the loader alone, its waits beside a busy device."""
    folder = bench.work / "random"
    if not folder.exists():
        random_set(folder, 100_000 if bench.cuda else 1_000, CLASSES)
    for name, policy in POLICIES.items():
        reader = ShardSet(folder).split("train", threads=loader_threads())
        order = SampleOrder(samples=reader.samples, seed=3)
        feed = Feed(reader=reader, order=order, classes=CLASSES, policy=policy)
        yield f"{name}: same images as on the CPU", partial(_same_images, bench, feed)
        yield f"{name}: alone", partial(_alone, bench, feed)
        yield f"{name}: beside a busy device", partial(_beside_work, bench, feed)


def _loader(bench: Bench, feed: Feed, batches: int) -> Loader:
    spans = ((number * bench.batch, (number + 1) * bench.batch) for number in range(batches))
    return Loader(feed, spans, bench.device, largest=bench.batch, threads=loader_threads())


def _same_images(bench: Bench, feed: Feed) -> Row:
    spans = [(0, 500), (500, 501), (501, 900)]
    found: list[list[Batch]] = []
    for device in (torch.device("cpu"), bench.device):
        with Loader(feed, spans, device, largest=500, threads=2) as batches:
            found.append([Batch(images=each.images.cpu(), labels=each.labels.cpu()) for each in batches])
    pairs = list(zip(*found, strict=True))
    apart = torch.cat([(one.images.int() - other.images.int()).abs().flatten() for one, other in pairs])
    return {
        "gray levels apart": int(apart.max()),
        "pixels that differ": float((apart > 0).double().mean()),
        "labels that differ": sum(int((one.labels != other.labels).sum()) for one, other in pairs),
    }


def _alone(bench: Bench, feed: Feed) -> Row:
    count = 100 if bench.cuda else 5
    with _loader(bench, feed, LEAD + count) as batches:
        brought = iter(batches)
        for _ in islice(brought, LEAD):
            pass
        started = perf_counter()
        images = sum(len(batch.labels) for batch in brought)
        bench.synchronise()
        return {"images/s": images / (perf_counter() - started)}


def _beside_work(bench: Bench, feed: Feed) -> Row:
    """A wait as long as the work would mean that loading queues behind it."""
    count, side = (25, 8_192) if bench.cuda else (5, 64)
    matrix = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)

    def work() -> None:
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)

    waited = []
    with _loader(bench, feed, LEAD + count) as batches:
        for _ in batches:
            waited.append(batches.wait_s)
            work()
        bench.synchronise()
    return {"ms of work": bench.seconds(work) * 1e3, "ms waited": (waited[-1] - waited[LEAD]) / (count - 1) * 1e3}
