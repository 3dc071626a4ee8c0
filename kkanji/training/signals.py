"""SIGTERM and Ctrl-C during training ask a run to save and leave. All ranks agree on it between two steps."""

import signal
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from kkanji.cli import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, the first signal is only noted; a second one has its usual effect at once.

    Ranks exchange what they noted by gloo, on the host, so that no step waits for a device.
    """

    def __init__(self) -> None:
        self._noted = 0
        self._previous: dict[int, Any] = {}
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def __enter__(self) -> "Interruption":
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The highest signal that any rank has noted, 0 for none. All ranks call this at the same step."""
        if self._group is None:
            return self._noted
        noted = torch.tensor(self._noted)
        dist.all_reduce(noted, dist.ReduceOp.MAX, group=self._group)
        return int(noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            self._previous[number](number, frame)
        self._noted = number


def leave(number: int) -> None:
    """Raise what the signal would have raised."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated
