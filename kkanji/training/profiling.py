"""Where a step's time goes: traces on request, stacks when it does not end, garbage collection out of the way."""

import faulthandler
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile, schedule, tensorboard_trace_handler

LEFT_OUT, WARM_UP = 3, 2  # steps: the first ones allocate and compile


class NoProfiler:
    """Stands in where no traces are asked for."""

    def step(self) -> None:
        """Nothing."""


@contextmanager
def profiled(steps: int, folder: Path) -> Iterator[NoProfiler | profile]:
    """A profiler whose `step` is called after each step; it writes so many steps, once, for TensorBoard or Perfetto."""
    if not steps:
        yield NoProfiler()
        return
    stages = schedule(skip_first=LEFT_OUT, wait=0, warmup=WARM_UP, active=steps, repeat=1)
    with profile(schedule=stages, on_trace_ready=tensorboard_trace_handler(str(folder))) as profiler:
        yield profiler


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No collection when Python chooses: each rank would choose another moment, and all wait for each other."""
    gc.collect()
    gc.freeze()  # what is there now, imported modules above all, stays; collections asked for need not look at it
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def watched(seconds: int) -> Iterator[Callable[[], None]]:
    """Gives what is to be called at each step. If no call follows within so many seconds, the process ends with status
    1 and the stacks of all threads on stderr: a rank that waits for another for ever would keep its GPU as long.
    """
    if not seconds:
        yield lambda: None
        return
    try:
        yield lambda: faulthandler.dump_traceback_later(seconds, exit=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
