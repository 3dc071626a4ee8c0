"""Discrete events: processes, the clock that wakes them, and servers.

A process is a generator that yields either the time at which it goes on or a gate at which it waits. A server takes
jobs in the order in which they come, so it can say at once when a job will be done.
"""

import heapq
from collections.abc import Generator

Process = Generator["float | Gate", None, None]


class Gate:
    """Where processes wait for something to change; they look again each time it opens."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Process] = []


class Clock:
    """The events to come, the soonest first, of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Process]] = []
        self._asked = 0

    def start(self, process: Process, at: float | None = None) -> None:
        """Have it go on then, or now."""
        self._asked += 1
        heapq.heappush(self._events, (self.now if at is None else at, self._asked, process))

    def open(self, gate: Gate) -> None:
        """Have those who wait look again."""
        waiting, gate.waiting = gate.waiting, []
        for process in waiting:
            self.start(process)

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now, _, process = heapq.heappop(self._events)
            wait = next(process, None)
            if isinstance(wait, Gate):
                wait.waiting.append(process)
            elif wait is not None:
                self.start(process, wait)


class Server:
    """Something that does so many jobs at a time, in the order in which they come."""

    def __init__(self, places: int = 1) -> None:
        self._free = [0.0] * places
        self.busy_s = 0.0

    def take(self, now: float, seconds: float) -> float:
        """A job that begins as soon as there is a place; when it will be done."""
        end = max(now, self._free[0]) + seconds
        heapq.heapreplace(self._free, end)
        self.busy_s += seconds
        return end

    def share(self, seconds: float) -> float:
        """Of that time in which its places were taken."""
        return self.busy_s / len(self._free) / seconds if seconds else 0.0
