"""A run measured: loss and accuracy, images per second, the wait for data, the use of the hardware, the time left."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kkanji.data.dali import Loader
from kkanji.evaluation.predictions import TOP
from shards import SplitReader
from shards.format.layout import IMAGE_BYTES, IMAGE_SIZE

# Dense bfloat16, operations a second, by the exact name that the driver gives: a word more can be another chip. From
# NVIDIA's data sheets (A100, H100, H200, GH200, HGX B200, L4, L40S), which double most figures "with sparsity".
GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,  # SXM
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,  # SXM
    "NVIDIA H200 NVL": 836e12,
    "NVIDIA GH200 480GB": 990e12,  # as its data sheet rounds half of 1,979
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
SLOW_LINES = 1  # log lines after a start whose steps allocate and compile
NEW_PACE = 0.3  # weight of the last line's pace in the average over lines
SIDE, TRIES = 1024, 5  # of the matrices that measure a CPU


class Meter:
    """Sums over the steps since the last log line, on the device until they are read."""

    def __init__(
        self, device: torch.device, loader: Loader, reader: SplitReader, *, peak_flops: float | None = None
    ) -> None:
        """peak_flops: operations per second of the device at its peak, to compare with; None if unknown."""
        self._peak = peak_flops
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)
        self._loader, self._reader = loader, reader
        self._begin()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave the time inside, of an evaluation for example, and what is fetched meanwhile out of the rates."""
        start, fetched = perf_counter(), self._fetched_bytes()
        yield
        self._start += perf_counter() - start
        self._fetched += self._fetched_bytes() - fetched

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor, *, flops: float = 0.0) -> None:
        """Count a micro-batch: logits [B, C], labels [B], the loss summed over it, the operations that it took."""
        self._flops += flops
        self._bytes += len(labels) * (IMAGE_BYTES + labels.element_size())
        right = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
        counts = torch.stack([loss.double(), right[:, 0].sum().double(), right.sum().double()])
        self._sums[:3] += counts
        self._sums[3] += len(labels)

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all ranks since the last call. It waits for the device; all ranks call it.

        `wait_fraction` is that of the rank that waited longest, since the others then wait for it in the exchange of
        gradients. The use of the hardware is this rank's own.
        """
        loss, top1, top5, images = accelerator.reduce(self._sums, reduction="sum").tolist()
        elapsed = perf_counter() - self._start
        waited = torch.tensor([(self._loader.wait_s - self._waited) / elapsed], device=self._sums.device)
        longest = float(accelerator.gather(waited).max())
        traffic = self._traffic(elapsed)
        use = {"to_device_mb_per_s": self._bytes / 1e6 / elapsed}
        if self._peak:
            use["flops_fraction"] = self._flops / elapsed / self._peak
        self._sums.zero_()
        self._begin()
        means = {"loss": loss / images, "top1": top1 / images, "top5": top5 / images}
        return means | {"images_per_s": images / elapsed, "wait_fraction": longest} | use | traffic

    def _begin(self) -> None:
        self._start, self._waited = perf_counter(), self._loader.wait_s
        self._flops, self._bytes = 0.0, 0
        self._fetched = self._fetched_bytes()

    def _fetched_bytes(self) -> int:
        return self._reader.traffic().get("fetched_bytes", 0)

    def _traffic(self, elapsed: float) -> dict[str, float]:
        """What this process streamed since the start, and its rate since the last call; empty for a local set."""
        traffic = {name: float(value) for name, value in self._reader.traffic().items()}
        if traffic:
            traffic["fetched_mb_per_s"] = (traffic["fetched_bytes"] - self._fetched) / 1e6 / elapsed
        return traffic


class Pace:
    """A run's clock: the time that it has taken over all its starts, and what is left."""

    def __init__(self, *, seconds: float, seen: int, most_s: float, work: Callable[[int, int], float]) -> None:
        """seconds, seen: that the run took before, and images that it saw. most_s: it is over then, 0 for never.

        work: what the images from one position to another cost, in any unit.
        """
        self._started = perf_counter() - seconds
        self._seen, self._most_s, self._work = seen, most_s, work
        self._paces = 0  # that `left_s` was told of
        self._pace = 0.0  # seconds for a unit of work
        self._pauses: list[float] = []

    @property
    def seconds(self) -> float:
        """Time that the run has taken."""
        return perf_counter() - self._started

    def over(self) -> bool:
        """Whether its time is over."""
        return 0 < self._most_s <= self.seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Something besides steps, an evaluation, which takes as long the next time."""
        start = perf_counter()
        yield
        self._pauses.append(perf_counter() - start)

    def left_s(self, seen: int, end: int, images_per_s: float, *, pauses: int) -> float:
        """An estimate of the time left until an image's position, with as many pauses; call it at every log line.

        images_per_s: since the last call. The first one of a start is slow, so it counts only until there is another.
        """
        done = self._work(self._seen, seen)
        if done and images_per_s:
            pace = (seen - self._seen) / images_per_s / done
            self._pace = pace if self._paces < SLOW_LINES + 1 else self._pace + NEW_PACE * (pace - self._pace)
            self._paces, self._seen = self._paces + 1, seen
        paused = pauses * sum(self._pauses) / max(1, len(self._pauses))
        left = self._pace * self._work(seen, end) + paused
        return max(0.0, min(left, self._most_s - self.seconds) if self._most_s else left)


def training_flops(model: nn.Module, size: int = IMAGE_SIZE) -> float:
    """Operations of training on one image of size x size: forward, and twice that backward.

    A multiply-add is two operations.
    """
    probe = copy.deepcopy(model).cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        probe(torch.zeros(1, 1, size, size))
    return 3.0 * float(counter.get_total_flops())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations per second of the device at its peak; None for a GPU or a type that is not in the table.

    On a CPU it is measured: the best of a few matrix products, on the threads that torch uses.
    """
    if device.type != "cpu":
        return GPU_PEAKS.get(torch.cuda.get_device_name(device)) if dtype == torch.bfloat16 else None
    left = torch.rand(SIDE, SIDE).to(dtype)
    seconds = []
    for _ in range(TRIES):
        start = perf_counter()
        left @ left
        seconds.append(perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)
