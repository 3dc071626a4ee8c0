"""Work in several processes, since threads of one process run its Python code one at a time.

A profile of `balance`: 59 % of the time is compiled augmentation, which threads can overlap; most of the rest holds the
GIL, so that one process could not use more than about three cores. The processes are forks, which share compiled code,
tables and mapped files.
"""

import ctypes
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kkanji.cli import INPUT_ERROR
from shards import InputError
from tools.progress import count_images

POLL_S = 0.05
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
Progress = Callable[[int], object]
Work = Callable[[int, Progress], int]


def run_processes(processes: int, work: Work, total: int) -> list[int]:
    """Call work(place, progress) in each process and return the results by place. total: length of the progress bar.

    Whatever ends this process also kills the others at once (SIGKILL), so the work must survive that. Raises InputError
    if one is killed, and SystemExit if one fails, after it has printed why.
    """
    if processes == 1:
        with count_images(total) as bar:
            return [work(0, bar.update)]
    tallies = np.frombuffer(mmap.mmap(-1, 2 * 8 * processes), np.int64).reshape(2, processes)  # progress, result
    children: list[int] = []
    try:
        for place in range(processes):  # before the bar, whose thread a fork would not copy
            children.append(_fork(place, work, tallies))
        _watch(children, tallies[0], total)
    finally:
        _end(children)
    return [int(result) for result in tallies[1]]


def _fork(place: int, work: Work, tallies: NDArray[np.int64]) -> int:
    """Start a child process. Returns its id."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _die_with(parent)

        def count(images: int) -> None:
            tallies[0, place] += images

        tallies[1, place] = work(place, count)
        code = 0
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        code = INPUT_ERROR
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _die_with(parent: int) -> None:
    """End with the parent. Ctrl-C reaches all processes of a terminal, so the children leave it to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl took effect
        os._exit(1)


def _watch(children: Sequence[int], counts: NDArray[np.int64], total: int) -> None:
    """Update the bar until all children have succeeded."""
    running, shown = set(children), 0
    with count_images(total) as bar:
        while running:
            time.sleep(POLL_S)
            for child in list(running):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    running.remove(child)
                    _require_success(os.waitstatus_to_exitcode(status))
            found = int(counts.sum())
            bar.update(found - shown)
            shown = found


def _require_success(code: int) -> None:
    if code < 0:
        name = signal.Signals(-code).name
        raise InputError(f"a worker process was ended by {name} (out of memory?); run the same command again to resume")
    if code:
        raise SystemExit(code)


def _end(children: Sequence[int]) -> None:
    """Kill the children that still run. Those that have ended are gone, or wait to be reaped."""
    for child in children:
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                continue
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except ChildProcessError:
            continue
