"""Work shared out to processes, since threads of one run its Python one at a time.

Profiled on blocks of `balance`: 59 % of the time is compiled augmentation, which threads can overlap; most of the rest
holds Python's lock, so that one process could not use more than some three cores. Processes are forks: compiled code,
tables and mapped files are there once.
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

from kkanji.cli import INPUT_ERROR, PR_SET_PDEATHSIG
from shards import InputError
from tools.progress import count_images

POLL_S = 0.05
Progress = Callable[[int], object]
Work = Callable[[int, Progress], int]


def share_out(processes: int, work: Work, total: int) -> list[int]:
    """What work(place, progress) returns in each of so many processes, place by place, with a bar up to total.

    Whatever ends this process ends them, too, at once (SIGKILL): for work that survives that. Raises: InputError when
    one of them is killed, SystemExit when one fails, which has then said why.
    """
    if processes == 1:
        with count_images(total) as bar:
            return [work(0, bar.update)]
    tallies = np.frombuffer(mmap.mmap(-1, 2 * 8 * processes), np.int64).reshape(2, processes)  # progress, result
    children: list[int] = []
    try:
        for place in range(processes):  # before there is a bar, as that has a thread, which forks do not copy
            children.append(_fork(place, work, tallies))
        _watch(children, tallies[0], total)
    finally:
        _end(children)
    return [int(result) for result in tallies[1]]


def _fork(place: int, work: Work, tallies: NDArray[np.int64]) -> int:
    """The child's id."""
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
    """Ctrl-C goes to all processes of a terminal; it is the parent's to deal with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os._exit(1)


def _watch(children: Sequence[int], counts: NDArray[np.int64], total: int) -> None:
    """Until all have ended well."""
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
        raise InputError(f"a worker process was ended by {name} (out of memory?); the same command goes on from there")
    if code:
        raise SystemExit(code)


def _end(children: Sequence[int]) -> None:
    """Those that still run; those that ended are not there any more, or wait to be looked at."""
    for child in children:
        try:
            if os.waitpid(child, os.WNOHANG)[0]:
                continue
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except ChildProcessError:
            continue
