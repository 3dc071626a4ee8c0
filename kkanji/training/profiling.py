"""Where a step's time goes: traces on request, stacks of a step that does not end, no garbage collection in between."""

import faulthandler
import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from torch.profiler import profile, schedule, tensorboard_trace_handler

from kkanji import cli
from kkanji.launchers import rank_name

LEFT_OUT, WARM_UP = 3, 2  # steps: the first ones allocate and compile
BEGINNING_S = 240  # opening a set, building and compiling: whatever the time that steps may take
TICK_S = 1.0  # between two looks of the watch
STDERR = 2  # the descriptor: the stacks are written without Python


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


class Watch:
    """Ends the process when nothing has moved for some time, so that no rank holds its GPU waiting for a dead one.

    Only time in which the process runs counts: one that was stopped (Ctrl-Z, a scheduler, a closed laptop) goes on.
    """

    def __init__(
        self, seconds: float, message: str, status: int, *, stacks: bool = False, beginning_s: float = 0.0
    ) -> None:
        """seconds: 0 waits forever. message: may name {still} seconds and what the run is {doing}.

        stacks: print those of all threads too. beginning_s: more seconds until `begun` is called.
        """
        self._seconds, self._message, self._status, self._stacks = seconds, message, status, stacks
        self._doing, self._still_s, self._spare_s = "", -beginning_s, beginning_s
        self._over = threading.Event()
        if seconds:
            threading.Thread(target=self._run, name="watch", daemon=True).start()

    def moved(self, doing: str = "") -> None:
        """Begin to count anew. doing: what comes next, for the message; by default what came before."""
        self._doing, self._still_s = doing or self._doing, -self._spare_s

    def begun(self) -> None:
        """A first step is done: from now on none has to open, compile or warm up anything."""
        self._spare_s = 0.0

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()

    def _run(self) -> None:
        tick, before = min(TICK_S, self._seconds / 4), time.monotonic()
        while not self._over.wait(tick):
            now = time.monotonic()
            self._still_s += min(now - before, 2 * tick)  # more has passed where the process was stopped
            before = now
            if self._still_s >= self._seconds:
                self._end()
                return

    def _end(self) -> None:
        still = round(self._still_s + self._spare_s)
        cli.say(self._message.format(doing=self._doing, still=still))
        if self._stacks:
            faulthandler.dump_traceback(STDERR, all_threads=True)
        os._exit(self._status)


@contextmanager
def watched(seconds: int, doing: str) -> Iterator[Watch]:
    """The watch over a run, by --stall-seconds. doing: what the run begins with."""
    found = f"{rank_name()}: nothing has moved for {{still}} s (--stall-seconds {seconds}) {{doing}}"
    cause = "another rank, the disk or the network does not answer, or a step takes longer"
    remedy = "find the rank that is not waiting in the stacks below; --resume goes on from the last checkpoint"
    message = f"error: {found}: {cause}; {remedy}"
    with closing(Watch(seconds, message, status=1, stacks=True, beginning_s=BEGINNING_S)) as watch:
        watch.moved(doing)
        yield watch
