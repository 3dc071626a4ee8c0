"""What the parts of the examination share: the device, sizes, clocks, and how a failure becomes a row."""

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.rows import Row
from kkanji.environment import has_bfloat16

GPU_BATCH = 6_250  # a GPU's part of 50,000 on eight
CPU_BATCH = 8
MOST_LETTERS = 600  # of an error in the result
Measurement = tuple[str, Callable[[], Row]]
"""The name of a row, and the call that measures it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A device to examine. On a CPU everything is small: it shows that the examination works."""

    device: torch.device
    """The device."""
    work: Path
    """Folder for sets and runs."""

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def bfloat16(self) -> bool:
        """Whether networks are trained in bfloat16; emulated, on a CPU, it would take minutes."""
        return has_bfloat16(self.device)

    @property
    def batch(self) -> int:
        """Images of the largest batch."""
        return GPU_BATCH if self.cuda else CPU_BATCH

    def synchronise(self) -> None:
        """Wait until the device has done all work."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], repeats: int = 8, warm: int = 3) -> float:
        """Median seconds that the device takes for it, after runs that are not timed; on a CPU of a single run."""
        repeats, warm = (repeats, warm) if self.cuda else (1, 0)
        for _ in range(warm):
            run()
        return statistics.median(self._seconds(run) for _ in range(repeats))

    def host_seconds(self, run: Callable[[], object]) -> float:
        """Seconds that the host takes to launch it, while the device is idle at first."""
        self.synchronise()
        started = perf_counter()
        run()
        taken = perf_counter() - started
        self.synchronise()
        return taken

    def _seconds(self, run: Callable[[], object]) -> float:
        if not self.cuda:
            return self.host_seconds(run)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3


def rows(measurements: Iterable[Measurement]) -> Iterator[Row]:
    """A row for each measurement. One that fails has the reason, and the next one is measured all the same."""
    for name, measure in measurements:
        try:
            found = measure()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:MOST_LETTERS]}
        yield {"name": name, **found}
