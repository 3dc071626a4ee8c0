"""How far a command is: a bar where stderr is a terminal, and else a line from time to time."""

import sys
from collections.abc import Callable
from time import monotonic
from typing import TextIO

from tqdm import tqdm

EVERY_S = 10.0


class Progress:
    """Counts items, and says how many there are, how fast they pass and how long the rest will take."""

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "files",
        stream: TextIO | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """done: items of an earlier run."""
        self._total, self._done, self._unit = total, done, unit
        self._stream, self._clock = stream or sys.stderr, clock
        self._begun = self._last = clock()
        self._first = done
        hidden = not self._stream.isatty()
        self._bar = tqdm(total=total, initial=done, unit=f" {unit}", file=self._stream, leave=False, disable=hidden)

    def update(self, items: int, failed: int) -> None:
        """So many more are done. failed: of all so far."""
        self._done += items
        self._bar.set_postfix_str(f"{failed:,} unreadable" if failed else "", refresh=False)
        self._bar.update(items)
        now = self._clock()
        if self._bar.disable and self._done < self._total and now - self._last >= EVERY_S:
            self._last = now
            self._stream.write(f"{self.line(now, failed)}\n")
            self._stream.flush()

    def line(self, now: float, failed: int) -> str:
        """`2,560 of 10,000 files, 410.0/s, 18 s left, 3 unreadable`."""
        rate = (self._done - self._first) / max(now - self._begun, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        tail = f", {failed:,} unreadable" if failed else ""
        return f"{self._done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s, {duration(left)} left{tail}"

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar.disable:
            self._stream.write(f"{text}\n")
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def duration(seconds: float) -> str:
    """`18 s`, `2 min 05 s`, `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
