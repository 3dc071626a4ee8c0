"""Work in threads whose results come in the order of the items."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(Protocol):
    """Threads that take calls: a ThreadPoolExecutor, or the daemons of shards.store.retry."""

    def submit(self, call: Callable[[Item], Result], item: Item, /) -> "Future[Result]":
        """Have `call` run with this item."""
        ...


class Stopped(Exception):
    """Raised by work that finds `stop` set."""


def map_in_order(
    pool: Pool,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int | None = None,
    stop: threading.Event | None = None,
) -> Generator[Result, None, None]:
    """Yield work(item) for each item, in order.

    ahead: how many calls may be in flight beyond the result that is due, which bounds memory; None for all at once.
    When a call raises, or the generator is closed, `stop` is set for running calls and waiting ones are cancelled.
    After an Exception the running calls are awaited, so that none writes once the caller cleans up. After Ctrl-C they
    are not, since a call may hang on a network for minutes; a caller that must wait leaves its pool by `with`.
    """
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if ahead is not None and len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BaseException as error:
        if stop is not None:
            stop.set()
        for future in running:
            future.cancel()
        if isinstance(error, Exception):
            wait(running)
        raise
