"""Discrete-event simulation: processes, the clock that wakes them, and servers.

A process is a generator. It yields either the time at which it continues or a gate at which it waits. A server works on
jobs in the order of their arrival, so it knows at once when a job will be done.
"""

import heapq
from collections.abc import Generator

Process = Generator["float | Gate", None, None]


class Gate:
    """Where processes wait for a condition; each time the gate opens, they check the condition again."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Process] = []


class Clock:
    """The pending events, earliest first. Events of equal time run in the order in which they were scheduled."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Process]] = []
        self._scheduled = 0

    def start(self, process: Process, at: float | None = None) -> None:
        """Schedule a process to continue at a time, or now."""
        self._scheduled += 1
        heapq.heappush(self._events, (self.now if at is None else at, self._scheduled, process))

    def open(self, gate: Gate) -> None:
        """Let the processes that wait at a gate check their condition again."""
        waiting, gate.waiting = gate.waiting, []
        for process in waiting:
            self.start(process)

    def run(self) -> None:
        """Run until no event is pending."""
        while self._events:
            self.now, _, process = heapq.heappop(self._events)
            wait = next(process, None)
            if isinstance(wait, Gate):
                wait.waiting.append(process)
            elif wait is not None:
                self.start(process, wait)


class Server:
    """A first-come first-served queue with a number of workers, such as the cores of a node or a network link."""

    def __init__(self, workers: int = 1) -> None:
        self._free_at = [0.0] * workers  # a heap: when each worker is free again
        self.busy_s = 0.0

    def take(self, now: float, seconds: float) -> float:
        """Queue a job that takes this many seconds; returns the time at which it will be done."""
        end = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, end)
        self.busy_s += seconds
        return end

    def utilisation(self, seconds: float) -> float:
        """Fraction of this time in which the workers were busy."""
        return self.busy_s / len(self._free_at) / seconds if seconds else 0.0
