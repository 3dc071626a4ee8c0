"""A training measured: loss and accuracy, images a second, the wait for data, the use of the hardware."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from accelerate import Accelerator
from torch import Tensor

from kkanji.data.dali import Loader
from kkanji.evaluation.predictions import TOP
from shards import SplitReader
from shards.format.layout import IMAGE_BYTES


class Meter:
    """Sums over the steps since the last log line, on the device until they are read."""

    def __init__(
        self, device: torch.device, loader: Loader, reader: SplitReader, *, peak_flops: float | None = None
    ) -> None:
        """peak_flops: operations a second that the device can do, to compare with."""
        self._peak = peak_flops
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)
        self._loader, self._reader = loader, reader
        self._begin()

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """The time inside, an evaluation's for example, and what is fetched meanwhile do not count in the rates."""
        start, fetched = perf_counter(), self._fetched_bytes()
        yield
        self._start += perf_counter() - start
        self._fetched += self._fetched_bytes() - fetched

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor, *, flops: float = 0.0) -> None:
        """Count a micro-batch: logits [B, C], labels [B], loss summed over it, operations that it took."""
        self._flops += flops
        self._bytes += len(labels) * (IMAGE_BYTES + labels.element_size())
        right = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
        counts = torch.stack([loss.double(), right[:, 0].sum().double(), right.sum().double()])
        self._sums[:3] += counts
        self._sums[3] += len(labels)

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all ranks since the last reading, and the wait of the rank that waited longest, since all others
        then wait for it in the exchange of gradients; the use of the hardware is this rank's."""
        loss, top1, top5, images = accelerator.reduce(self._sums, reduction="sum").tolist()
        elapsed = perf_counter() - self._start
        waited = torch.tensor([(self._loader.wait_s - self._waited) / elapsed], device=self._sums.device)
        longest = float(accelerator.gather(waited).max())
        traffic = self._traffic(elapsed)
        use = {"to_device_mb_per_s": self._bytes / 1e6 / elapsed}
        if self._peak:
            use["flops_share"] = self._flops / elapsed / self._peak
        self._sums.zero_()
        self._begin()
        means = {"loss": loss / images, "top1": top1 / images, "top5": top5 / images}
        return means | {"images_per_s": images / elapsed, "wait_share": longest} | use | traffic

    def _begin(self) -> None:
        self._start, self._waited = perf_counter(), self._loader.wait_s
        self._flops, self._bytes = 0.0, 0
        self._fetched = self._fetched_bytes()

    def _fetched_bytes(self) -> int:
        return self._reader.traffic().get("fetched_bytes", 0)

    def _traffic(self, elapsed: float) -> dict[str, float]:
        """This process's streaming since the start, and its rate since the last reading; empty for a local set."""
        traffic = {name: float(value) for name, value in self._reader.traffic().items()}
        if traffic:
            traffic["fetched_mb_per_s"] = (traffic["fetched_bytes"] - self._fetched) / 1e6 / elapsed
        return traffic
