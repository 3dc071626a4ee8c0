"""Requests to an object store: a bounded number at once, retried, counted.

Before each retry there is a random wait below a ceiling that doubles (full jitter; AWS, "Exponential Backoff and
Jitter"). The last retry waits until bytes arrive from the store, or else comes as late as the deadline allows, so that
any outage shorter than the deadline is survived. obstore does not show the headers of an error, so Retry-After is not
known here.
"""

import queue
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

from obstore.exceptions import BaseError

from shards.errors import CorruptShard, StorageError
from shards.store.credentials import Credentials
from shards.store.error_messages import Shortfall, is_passing, reason, refuse

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LOOK_S = 1  # between two checks whether any bytes have arrived from the store
MOST_CONNECTIONS = 24  # with ranges of 8 MiB enough for 500 MB/s at 100 ms a request
CHECK_SETTINGS = "check the location, and the variables AWS_*, GOOGLE_* and AZURE_*"
REQUEST_ERRORS = (BaseError, FileNotFoundError, Shortfall)  # what a request raises
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How long to go on trying, and how often."""

    request_s: float = 10
    """Seconds for one request with its body, 10 by default. A slower one is cut, and another goes on from there."""
    total_s: float = 60
    """Seconds, 60 by default, without a byte of the object arriving, after which it is given up."""
    requests: int = 8
    """Requests for one object, 8 by default, that may fail in a row."""
    wait_s: float = 1
    """Most seconds before the first retry, 1 by default; doubled each time, so request 7 comes after some 30 s."""
    upload_s: float = 120
    """Seconds for one request that sends an object or a part of it, 120 by default."""


class Traffic:
    """Requests to a store and bytes from it, counted by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        """Requests sent, including those that failed."""
        self.retries = 0
        """Retries after a failure."""
        self.bytes = 0
        """Bytes of objects received."""
        self.active = 0
        """Requests in flight now."""

    def count(self, *, requests: int = 0, retries: int = 0, size: int = 0, active: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.requests += requests
            self.retries += retries
            self.bytes += size
            self.active += active

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request, and keep it counted as active within this context."""
        self.count(requests=1, active=1)
        try:
            yield
        finally:
            self.count(active=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """An object or a prefix, and how it is requested."""

    client: "ObjectStore"
    """Client of its bucket."""
    key: str
    """Name of the object in its bucket, or a prefix."""
    url: str
    """URL of the object, for messages."""
    credentials: Credentials
    """Bucket and identity, for messages and further clients."""
    retry_policy: RetryPolicy
    """When requests are retried and given up."""
    traffic: Traffic
    """Where requests and bytes are counted."""


class Workers:
    """Threads for requests, as many as connections, first come first served; all stores share them.

    Daemons, so that the end of the process waits for no server: obstore's calls do not mind (tried with Python 3.11).
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(
        self, call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> "Future[Result]":
        """Call it in one of the threads; the future has what it returns or raises."""
        future: Future[Result] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call(*arguments, **named))
            except BaseException as error:
                # obstore's Rust code panics where a setting makes no request; pyo3 raises that past `except Exception`.
                if type(error).__name__ == "PanicException":
                    error = StorageError(f"obstore failed: {str(error)[:100]}; {CHECK_SETTINGS}")
                future.set_exception(error)

        with self._lock:
            if len(self._threads) < self._count:
                self._threads.append(threading.Thread(target=self._run, name="storage", daemon=True))
                self._threads[-1].start()
        self._work.put(work)
        return future

    def _run(self) -> None:
        while True:
            self._work.get()()


@cache
def workers() -> Workers:
    """The process's one pool. It takes at most a quarter of the files that the process may open (`ulimit -n`)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Workers(MOST_CONNECTIONS if limit == resource.RLIM_INFINITY else max(4, min(MOST_CONNECTIONS, limit // 4)))


class Attempts:
    """When to retry one object, and when to give it up. One thread at a time waits."""

    def __init__(self, remote: Remote) -> None:
        self.stopped = threading.Event()
        self._remote = remote
        self._count, self._longest = 0, 0.0
        self._since = self._progress = time.monotonic()

    def progressed(self) -> None:
        """Bytes have arrived: requests and seconds are counted anew."""
        self._progress = time.monotonic()

    def wait(self, error: Exception, took_s: float) -> None:
        """Sleep before the next request. Raises the error for the user when there will be none.

        took_s: seconds that the failed request took. The longest so far is kept free before the deadline, so that the
        last request can end in time.
        """
        remote = self._remote
        retry_policy = remote.retry_policy
        now = time.monotonic()
        if not is_passing(error, first=remote.traffic.bytes == 0):
            refuse(error, remote.url, remote.credentials)
        # Here and not in `progressed`, which other threads call for every piece that arrives.
        if self._progress > self._since:
            self._since = self._progress
            self._count = 0
            self._longest = 0.0
        self._count += 1
        self._longest = max(self._longest, took_s)
        left = self._since + retry_policy.total_s - self._longest - now
        if left <= 0 or self._count >= retry_policy.requests:
            give_up(error, remote, f"{self._count} requests in {now - self._since:.0f} s")
        remote.traffic.count(retries=1)
        self._sleep(now + left, last=self._count == retry_policy.requests - 1)

    def _sleep(self, deadline: float, *, last: bool) -> None:
        ceiling = self._remote.retry_policy.wait_s * 2 ** (self._count - 1)
        seen = self._remote.traffic.bytes
        self.stopped.wait(min(deadline - time.monotonic(), random.uniform(0, ceiling)))  # noqa: S311  (no secret)
        while last and self._remote.traffic.bytes == seen and not self.stopped.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self.stopped.wait(min(left, LOOK_S))


def give_up(error: Exception, remote: Remote, tried: str) -> NoReturn:
    """Raise the error for the user: retrying did not help."""
    if isinstance(error, Shortfall):
        raise CorruptShard(
            f"{remote.url}: {error}, after {tried}; push it again, or check the proxies between"
        ) from error
    check = "check the network and the server, then run again"
    raise StorageError(f"{remote.url}: {reason(error)} from {remote.credentials.host}, {tried}; {check}") from error


def ask(remote: Remote, call: Callable[[], Result]) -> Result:
    """Make a small request, and retry it until it succeeds or is given up.

    Raises: MissingShard, ChangedShard, CorruptShard, StorageError.
    """
    return workers().submit(_persist, remote, call).result()


def _persist(remote: Remote, call: Callable[[], Result]) -> Result:
    attempts = Attempts(remote)
    while True:
        began = time.monotonic()
        try:
            with remote.traffic.request():
                return call()
        except REQUEST_ERRORS as error:
            attempts.wait(error, time.monotonic() - began)
