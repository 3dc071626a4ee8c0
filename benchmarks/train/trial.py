"""A run whose steps are fed from several places, and timed.

The step, the loader and the meter are those of `kkanji.training`. A measurement waits for nothing that training itself
does not wait for: on a GPU, moments are events among its work.
"""

import gc
import resource
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from time import perf_counter

import torch

from benchmarks.rows import Row
from benchmarks.train.verdict import Rates, verdict
from kkanji.data.dali import Batch, Loader
from kkanji.data.training_set import PREFETCH
from kkanji.environment import device_name
from kkanji.training.build import Run, blank_batch, create_meter, run_peak_flops
from kkanji.training.schedule import part_of
from kkanji.training.signals import Ending
from kkanji.training.trainer import take_step
from shards import IMAGE_BYTES, IMAGE_SIZE, Plan

LEAD = PREFETCH + 2  # micro-batches that are not measured: the loader has the first ones ready
WITHOUT_END = 1_000_000  # epochs
MOST_STEPS = 1_000  # of a measurement
ALONE, CACHED, FED, LOADER = (
    "limit: the model, batches on the device",
    "kkanji: batches in host memory",
    "kkanji: batches of the loader",
    "kkanji: the loader, no model",
)
PERCENTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}
LABEL_BYTES = 8
COPIES = 20
ORDERS = {ALONE: "one batch, repeated", CACHED: "a global batch, repeated", FED: "as in training", LOADER: "the same"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """When a micro-batch was requested."""

    moment: float | torch.cuda.Event
    """Of the host's clock, or in the GPU's work."""
    images: int
    """Brought before it."""
    waited: float
    """Seconds that the host had waited for the loader before it."""


class Marked:
    """Batches passed on, each with a mark: no step is waited for."""

    def __init__(self, batches: Iterator[Batch], device: torch.device, waited: Callable[[], float]) -> None:
        self.marks: list[Mark] = []
        self._batches, self._cuda, self._waited = batches, device.type == "cuda", waited
        self._images = 0

    def mark(self) -> None:
        """Start a new measurement."""
        moment: float | torch.cuda.Event = perf_counter()
        if self._cuda:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self.marks.append(Mark(moment=moment, images=self._images, waited=self._waited()))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.mark()
        batch = next(self._batches)
        self._images += len(batch.labels)
        return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One measurement."""

    rate: float
    """Images/s over all ranks."""
    waited: float = 0.0
    """Fraction of the time that the host waited for the loader, on the rank that waited longest."""
    steps: tuple[float, ...] = ()
    """Seconds that each took on this rank."""


class Trial:
    """A run that is timed, and leaves nothing behind."""

    def __init__(self, run: Run, loader: Loader) -> None:
        """loader: of the run, from its first step on."""
        self.run, self._device = run, run.accelerator.device
        self._loader, self._meter, self._ending = loader, create_meter(run, loader), Ending(blank_batch(run))
        self._parts = part_of(run.plan, 0, run.rank, run.config.runtime.micro_batch).spans

    def measure(self, repeats: int, seconds: float) -> Row:
        """All results, on the main process. Every rank calls it."""
        brought = iter(self._loader)
        cached = [_on_host(batch) for batch in islice(brought, len(self._parts))]
        sources: dict[str, Iterator[Batch]] = {
            ALONE: self._synthetic(),
            CACHED: replayed(cached, self._device),
            FED: brought,
        }
        steps = self._warm_up(sources[ALONE], seconds)
        found: dict[str, list[Measured]] = {name: [] for name in (*sources, LOADER)}
        for _ in range(repeats):
            for name, batches in sources.items():
                found[name].append(self._train(batches, steps))
            found[LOADER].append(self._load(brought, seconds))
        return self._result(found, _link_mb_per_s(cached, self._device))

    @property
    def _lead(self) -> int:
        """Steps at the beginning that are not measured, where a step is so few micro-batches."""
        parts = len(self._parts)
        return -(-LEAD // parts) if parts <= LEAD else 0

    def _synthetic(self) -> Iterator[Batch]:
        """One batch of random pixels, which is on the device, in the sizes that a step asks for."""
        device, shape = self._device, (self.run.config.runtime.micro_batch, IMAGE_SIZE, IMAGE_SIZE, 1)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).movedim(3, 1)
        labels = torch.randint(0, len(self.run.data.classes), shape[:1], device=device)
        for start, stop in cycle(self._parts):
            yield Batch(images=images[: stop - start], labels=labels[: stop - start])

    def _warm_up(self, batches: Iterator[Batch], seconds: float) -> int:
        """Train on two micro-batches; the number of steps that take about this many seconds."""
        run, parts = self.run, self._parts
        size = run.rank.count * (parts[0][1] - parts[0][0])
        short = replace(run, plan=Plan(samples=run.plan.samples, epochs=WITHOUT_END, batch_size=size))
        for _ in range(2):
            started = perf_counter()
            take_step(short, 0, batches, self._meter, self._ending)
            self._meter.read(run.accelerator)  # waits for the device
        taken = torch.tensor(perf_counter() - started, device=self._device)
        longest = float(run.accelerator.gather(taken[None]).max())
        return min(MOST_STEPS, max(1, round(seconds / longest / len(parts)))) + self._lead

    def _train(self, batches: Iterator[Batch], steps: int) -> Measured:
        """Train for a number of steps, timed from the first micro-batch that counts to the end of the last step."""
        self.run.accelerator.wait_for_everyone()
        marked = Marked(batches, self._device, lambda: self._loader.wait_s)
        for step in range(steps):
            take_step(self.run, step, marked, self._meter, self._ending)
        marked.mark()
        self._meter.read(self.run.accelerator)  # as each log line does; it waits for the device
        gc.collect()
        marks, parts = marked.marks, len(self._parts)
        first, last = marks[min(LEAD, len(marks) - 2)], marks[-1]
        ends = range(0, len(marks), parts)[self._lead :]
        return self._together(
            last.images - first.images,
            _seconds(first, last),
            last.waited - first.waited,
            steps=tuple(_seconds(marks[end], marks[end + parts]) for end in ends if end + parts < len(marks)),
        )

    def _load(self, batches: Iterator[Batch], seconds: float) -> Measured:
        """Load whole steps' batches for about this many seconds, after those that were ready."""
        self.run.accelerator.wait_for_everyone()
        parts = len(self._parts)
        for _ in islice(batches, -(-LEAD // parts) * parts):
            pass
        images, started = 0, perf_counter()
        while images == 0 or perf_counter() - started < seconds:
            images += sum(len(batch.labels) for batch in islice(batches, parts))
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return self._together(images, perf_counter() - started, 0.0)

    def _together(self, images: int, seconds: float, waited: float, *, steps: tuple[float, ...] = ()) -> Measured:
        """Ranks run side by side: their rates add up."""
        own = torch.tensor([[images / seconds, waited / seconds]], dtype=torch.float64, device=self._device)
        rates, waits = self.run.accelerator.gather(own).T.tolist()
        return Measured(rate=sum(rates), waited=max(waits), steps=steps)

    def _result(self, found: dict[str, list[Measured]], link: float | None) -> Row:
        device, ranks, peak = self._device, self.run.rank.count, run_peak_flops(self.run)
        rows = [_rates(name, measured) for name, measured in found.items()]
        medians = {row["name"]: row["median"] for row in rows}
        rates = Rates(
            alone=medians[ALONE],
            cached=medians[CACHED],
            fed=medians[FED],
            loader=medians[LOADER],
            waited=statistics.median(one.waited for one in found[FED]),
            separate=device.type != "cpu",
            spread=max(_spread(row) for row in rows if row["name"] != LOADER),
            shards_ahead=self.run.data.reader.traffic().get("shards_ahead"),
        )
        at_peak = self.run.learner.flops(IMAGE_SIZE) / peak if peak else None
        steps = [_steps(name, measured, ranks, at_peak) for name, measured in found.items() if name != LOADER]
        devices = {
            "name": device_name(device),
            "processes": ranks,
            "precision": self.run.accelerator.mixed_precision,
            "torch threads": torch.get_num_threads(),
            "peak TFLOP/s": peak / 1e12 if peak else None,
            "link MB/s": link,
            **_memory(device),
        }
        traffic = dict(self.run.data.reader.traffic())
        fractions = {"lost": rates.lost, "copying": rates.copying, "loading": rates.loading}
        judged = {"verdict": verdict(rates), "rates": asdict(rates) | fractions, "traffic": traffic}
        return {"rows": rows, "steps": steps, "devices": [devices]} | judged


def replayed(batches: Sequence[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches in host memory, brought to the device over and over."""
    for batch in cycle(batches):
        images, labels = (each.to(device, non_blocking=True) for each in (batch.images, batch.labels))
        yield Batch(images=images, labels=labels)


def _on_host(batch: Batch) -> Batch:
    """A copy in host memory, from which a GPU can fetch by itself."""
    images, labels = (
        torch.empty_like(each, device="cpu", pin_memory=each.is_cuda).copy_(each)
        for each in (batch.images, batch.labels)
    )
    return Batch(images=images, labels=labels)


def _seconds(first: Mark, last: Mark) -> float:
    start, end = first.moment, last.moment
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return float(start.elapsed_time(end)) / 1e3
    assert isinstance(start, float) and isinstance(end, float)  # noqa: S101  (marks of one trial are of one kind)
    return end - start


def _rates(name: str, found: Sequence[Measured]) -> Row:
    rates = [one.rate for one in found]
    summary = {"n": len(rates), "median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
    return {"name": name, "order": ORDERS[name], **summary}


def _spread(row: Row) -> float:
    return float(max(row["highest"] - row["median"], row["median"] - row["lowest"]) / row["median"])


def _steps(name: str, found: Sequence[Measured], ranks: int, per_image: float | None) -> Row:
    """Of the steps of all measurements; per_image: seconds that an image takes a device at its peak."""
    taken = torch.tensor([seconds for one in found for seconds in one.steps], dtype=torch.float64) * 1e3
    device_rate = statistics.median(one.rate for one in found) / ranks
    return {
        "name": name,
        "images/s a device": device_rate,
        "steps": len(taken),
        **{f"{label} ms": float(taken.quantile(fraction)) for label, fraction in PERCENTILES.items()},
        "waited": statistics.median(one.waited for one in found),
        "MB/s to a device": 0.0 if name == ALONE else device_rate * (IMAGE_BYTES + LABEL_BYTES) / 1e6,
        "of peak": None if per_image is None else device_rate * per_image,
    }


def _memory(device: torch.device) -> Row:
    """Of the main process and its device, in megabytes."""
    own = {"host MB at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
    if device.type != "cuda":
        return own
    free, whole = torch.cuda.mem_get_info(device)
    taken = {"device MB": (whole - free) / 1e6, "of it tensors at most": torch.cuda.max_memory_allocated(device) / 1e6}
    return own | taken


def _link_mb_per_s(batches: Sequence[Batch], device: torch.device) -> float | None:
    """What the way to the device lets through, when nothing else uses it; None for a CPU, which has none."""
    if device.type != "cuda":
        return None
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    taken, moved = replayed(batches, device), 0
    next(taken)
    first.record()
    for batch in islice(taken, COPIES):
        moved += batch.images.nbytes + batch.labels.nbytes
    last.record()
    torch.cuda.synchronize(device)
    return moved / 1e3 / float(first.elapsed_time(last))
