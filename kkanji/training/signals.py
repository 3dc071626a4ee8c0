"""How a training ends before its last step: by a signal, or by an error on any rank.

All ranks agree on it within a step, undo that step, save what was finished before it, and leave with one cause. A rank
that wants to leave computes nothing more of the step but its end, with blank images: there ranks exchange gradients,
and the others wait for it. Their wishes travel meanwhile, by gloo on the host, so no step waits for a device or for the
answer.
"""

import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn

from kkanji.cli import Terminated, say
from kkanji.data.dali import Batch
from kkanji.launchers import rank_name
from kkanji.training.agreement import host_group
from shards import InputError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 2.0  # one Ctrl-C reaches a process more than once: from the terminal, and from the launcher that it ends
GRACE_S = 2.0  # for a process that waits for other ranks and does not get to its own handler
# What a rank wishes: 0 to go on, a signal's number, or one of these. The greatest wish of any rank counts.
FAILED, FAILED_UNSAVED = 1000, 1001
SAVED = "the run is saved at step {step}; the same command with --resume goes on from there"
UNSAVED = "nothing was saved; --resume goes on from the last checkpoint"


class Leaving(Exception):
    """All ranks leave the run, and each undoes what it has done of the current step."""


class LostRank(InputError):
    """Another rank no longer answers."""


class Ending:
    """While entered, signals and errors are only noted. `take` and `settle` then raise Leaving on all ranks together.

    A second Ctrl-C interrupts at once, unless it follows the first signal within PATIENCE_S. SIGTERM and SIGHUP never
    do: whoever cannot wait has SIGKILL.
    """

    def __init__(
        self, blank: Batch, moved: Callable[[], None] = lambda: None, over: Callable[[], bool] = lambda: False
    ) -> None:
        """blank: what a rank that wants to leave trains on. moved: called whenever the run has got further.

        over: whether the run's time is over. That of any rank counts.
        """
        self._blank, self._moved, self._is_over = blank, moved, over
        self.over = False
        """Whether all ranks end the run after this step, with `settle`'s knowledge of any rank's `over`."""
        self._group = host_group()
        self._passed = Longest()
        self._signals = Signals(self._answer)
        self._error: BaseException | None = None
        self._failed = 0
        self._exchange: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> "Ending":
        self._signals.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.end(ignored=bool(self._wish))

    @property
    def _wish(self) -> int:
        return max(self._signals.number, self._failed)

    def note(self, error: BaseException | None, *, save: bool = True) -> None:
        """Wish to end the run by this error. save: whether the run's state is right in spite of it."""
        if error is not None and self._error is None:
            self._error = error
            self._failed = FAILED if save else FAILED_UNSAVED

    def take(self, batches: Iterator[Batch], *, last: bool) -> Batch | None:
        """The next micro-batch of a step; None if this rank need not take part in it, as the step will be undone.

        last: of the step, with which ranks begin to exchange their wishes, and their gradients.
        """
        self._moved()
        if self._group is None:
            self._passed.now()
        batch = self._next(batches)
        if self._wish and self._group is None:
            raise Leaving
        if self._wish and not last:
            return None
        if last and self._group is not None:
            wish = torch.tensor([self._wish, self._is_over()])
            self._exchange = dist.all_reduce(wish, dist.ReduceOp.MAX, group=self._group, async_op=True), wish
        return batch

    def settle(self) -> None:
        """Before a step changes the weights: raise Leaving if a rank wishes so."""
        if self._exchange is None:
            self.over = self._is_over()
            return
        work, wishes = self._exchange
        self._exchange = None
        work.wait()
        self._passed.now()
        wish, over = wishes.tolist()
        self.over = bool(over)
        self._leave_if(wish)

    def meet(self) -> None:
        """Outside of a step: exchange wishes and wait for the answer. All ranks call it, and leave together."""
        self._moved()
        wish = torch.tensor(self._wish)
        if self._group is not None:
            dist.all_reduce(wish, dist.ReduceOp.MAX, group=self._group)
        self._leave_if(int(wish))

    def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an evaluation. It ends early if this rank wants to leave; then all ranks leave at its end."""
        try:
            for batch in batches:
                self._moved()
                self._passed.now()
                if self._wish:
                    break
                yield batch
        except Exception as error:
            self.note(error)
        self.meet()

    @contextmanager
    def undoing(self, network: nn.Module) -> Iterator[None]:
        """A step that is undone when it is left: batch statistics and gradients are as before it."""
        before = [buffer.clone() for buffer in network.buffers()]
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for buffer, value in zip(network.buffers(), before, strict=True):
                    buffer.copy_(value)
            network.zero_grad(set_to_none=True)
            raise

    def leave(self, save: Callable[[], None], step: int) -> NoReturn:
        """After Leaving: save, and raise on all ranks what the signal would have raised, or the first rank's error.

        step: the last one that was finished.
        """
        causes = self._gather((self._wish, rank_name(), self._error and _described(self._error)))
        wish, name, text = max(causes, key=itemgetter(0))  # of equal ones the first rank's
        outcome = UNSAVED
        if wish != FAILED_UNSAVED:
            save()
            outcome = SAVED.format(step=step)
        self._gather(None)  # they leave together: a launcher kills the others once one has left
        if wish < FAILED:
            error: BaseException = KeyboardInterrupt() if wish == signal.SIGINT else Terminated(wish)
        elif self._error is not None and not isinstance(self._error, InputError):
            error = self._error
        else:
            raise InputError(f"{text if self._group is None else f'{name}: {text}'}; {outcome}")
        error.add_note(outcome)
        raise error

    def _next(self, batches: Iterator[Batch]) -> Batch:
        if not self._wish:
            try:
                return next(batches)
            except Exception as error:
                self.note(error)
        return self._blank

    def _answer(self, number: int) -> str:
        """What a signal is answered with, while the main thread may be computing."""
        part = "this micro-batch" if self._group is None else "this step, with all ranks"
        at_most = f", at most about {math.ceil(self._passed.seconds)} s" if self._passed.seconds else ""
        who = "" if self._group is None else f"{rank_name()}: "
        return f"{who}{signal.Signals(number).name}: stopping after {part}{at_most}, then saving"

    def _leave_if(self, wish: int) -> None:
        if wish:
            raise Leaving

    def _gather(self, own: Any) -> list[Any]:
        """A value of each rank."""
        if self._group is None:
            return [own]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, own, group=self._group)
        return values


class Signals:
    """Signals, noted between `begin` and `end`, and answered at once."""

    def __init__(self, answer: Callable[[int], str]) -> None:
        """answer: what to say of the first one."""
        self.number = 0
        """The first signal that came, 0 for none."""
        self._since = 0.0
        self._answer, self._answered = answer, False
        self._heard = heard(self._say)
        self._previous: dict[int, Any] = {}

    def begin(self) -> None:
        """Note signals from here on."""
        unheard = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
        noted = [number for number in SIGNALS if not (unheard and number == signal.SIGHUP)]
        self._previous = {number: signal.signal(number, self._note) for number in noted}
        self._heard.__enter__()

    def end(self, *, ignored: bool) -> None:
        """Leave signals to their handlers of before. ignored: all but SIGINT to none at all."""
        self._heard.__exit__(None, None, None)
        for number, handler in self._previous.items():
            # A launcher that the same Ctrl-C ended sends its signal later, perhaps only now.
            signal.signal(number, signal.SIG_IGN if ignored and number != signal.SIGINT else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._since and now - self._since > PATIENCE_S:
            self._previous[number](number, frame)
        if not self.number:
            self.number, self._since = number, now

    def _say(self, number: int) -> None:
        if number in self._previous and not self._answered:
            self._answered = True
            say(self._answer(number))


class Longest:
    """The longest time between two points at which a run can be left: micro-batches, or steps of several ranks."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, 0.0

    def now(self) -> None:
        """Another point."""
        now = time.monotonic()
        self.seconds, self._since = max(self.seconds, now - (self._since or now)), now


@contextmanager
def missing_ranks() -> Iterator[None]:
    """While entered, torch's own error when another rank's process is gone becomes LostRank."""
    try:
        yield
    except RuntimeError as error:
        if dist.is_initialized() and _is_of_network(error):
            # Gloo's begins with a line of its source, and goes on with guesses.
            reason = re.sub(r"^\[\S+\] ", "", _first_line(error)).partition(". This is typically")[0]
            raise LostRank(f"{rank_name()}: another rank ended or no longer answers: {reason}") from error
        raise


@contextmanager
def prompt_signals() -> Iterator[None]:
    """While entered, a signal ends the process within GRACE_S, also where it waits for other ranks."""
    over = threading.Event()

    def end(number: int) -> None:
        if number in SIGNALS and not over.wait(GRACE_S):
            say(f"{'interrupted' if number == signal.SIGINT else 'terminated'} before the first step")
            os._exit(128 + number)

    with heard(end):
        try:
            yield
        finally:
            over.set()


@contextmanager
def heard(answer: Callable[[int], None]) -> Iterator[None]:
    """While entered, each signal that has a handler is answered at once, in a thread.

    Python runs its handlers between two of its own instructions, and there is none while torch computes in C++.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reading, True)
    thread = threading.Thread(target=_answer_all, args=[reading, answer], name="signals", daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _answer_all(reading: int, answer: Callable[[int], None]) -> None:
    while received := os.read(reading, 1):
        answer(received[0])


def _is_of_network(error: BaseException) -> bool:
    """Whether torch lost the connection to another rank. Gloo's errors have no type of their own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _described(error: BaseException) -> str:
    if isinstance(error, InputError | OSError):
        return str(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
