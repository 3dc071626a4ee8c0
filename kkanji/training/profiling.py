"""Where a step's time goes: traces on request, stacks of a step that does not end, no garbage collection in between."""

import faulthandler
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile, schedule, tensorboard_trace_handler

LEFT_OUT, WARM_UP = 3, 2  # steps: the first ones allocate and compile


class NoProfiler:
    """The profiler of a run without traces."""

    def step(self) -> None:
        """Do nothing."""


@contextmanager
def profiled(steps: int, folder: Path) -> Iterator[NoProfiler | profile]:
    """A profiler; call its `step` after each step. It traces this number of steps once, for TensorBoard or Perfetto."""
    if not steps:
        yield NoProfiler()
        return
    stages = schedule(skip_first=LEFT_OUT, wait=0, warmup=WARM_UP, active=steps, repeat=1)
    with profile(schedule=stages, on_trace_ready=tensorboard_trace_handler(str(folder))) as profiler:
        yield profiler


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep Python from collecting garbage on its own: ranks would do so at different steps and wait for each other."""
    gc.collect()
    gc.freeze()  # imported modules stay for good; the collections that we call for need not visit them
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def watched(seconds: int) -> Iterator[Callable[[], None]]:
    """A function to call at each step. If no call follows within this many seconds, the process ends with status 1 and
    the stacks of all threads on stderr, so that no rank holds its GPU waiting for a dead one.
    """
    if not seconds:
        yield lambda: None
        return
    try:
        yield lambda: faulthandler.dump_traceback_later(seconds, exit=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
