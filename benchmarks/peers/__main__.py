"""`python -m benchmarks.peers {write,local,bucket} NAME JOB`: one peer at work, started by benchmarks/subject.py.

NAME is a module of this package, or MODULE:FUNCTION for another function of it than the action's; JOB is a Job as JSON.
Answers are lines of JSON on stdout. `write` answers once. The others first state their versions, then answer each
line of stdin, a number of seconds, by measuring for so long: in steady state for `local`, a first epoch from its start
for `bucket`.
"""

import json
import os
import platform
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.peers import IMAGE_SIZE, Batch, Job

Answer = dict[str, Any]
Begin = Callable[[], Any]  # gives a generator of batches


def main() -> None:
    """Entry point. stdout is for answers only: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    action, name, job = sys.argv[1], sys.argv[2], Job(**json.loads(sys.argv[3]))
    for answer in _answers(action, name, job):
        answers.write(json.dumps(answer) + "\n")


def _answers(action: str, name: str, job: Job) -> Iterator[Answer]:
    module, _, function = name.partition(":")
    try:
        peer = import_module(f"benchmarks.peers.{module}")
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing
        yield {"failed": f"not installed: {error}"}
        return
    if action == "write":
        yield _write(peer, job)
        return
    opened = getattr(peer, function or action)
    begin = opened(job) if action == "local" else partial(opened, job)
    yield {"versions": _versions(peer)}
    for line in sys.stdin:
        limit_s = float(line)
        yield _steady(begin, job, limit_s, peer.AHEAD) if action == "local" else _first_epoch(begin, job, limit_s)


def _write(peer: ModuleType, job: Job) -> Answer:
    Path(job.folder).mkdir(parents=True)
    if hasattr(peer, "write"):
        peer.write(job)
    return {"bytes": sum(path.stat().st_size for path in Path(job.folder).rglob("*") if path.is_file())}


def _steady(begin: Begin, job: Job, limit_s: float, ahead: int) -> Answer:
    """As many epochs as it takes. In each, so many batches as can lie ready in queues go first, unmeasured."""
    images, seconds = 0, 0.0
    while seconds < limit_s:
        with closing(begin()) as batches:
            deque(islice(batches, ahead), maxlen=0)
            timed = _timed(batches, job, perf_counter(), limit_s - seconds)
        images, seconds = images + timed["images"], seconds + timed["seconds"]
    return {"images": images, "seconds": seconds}


def _first_epoch(begin: Begin, job: Job, limit_s: float) -> Answer:
    """From opening the set, with an empty cache, until its last batch or the end of the time."""
    shutil.rmtree(job.cache, ignore_errors=True)
    Path(job.cache).mkdir(parents=True)
    start = perf_counter()
    with closing(begin()) as batches:
        return _timed(batches, job, start, limit_s)


def _timed(batches: Iterator[Batch], job: Job, start: float, limit_s: float) -> Answer:
    """Until the time is over or the epoch is: images, seconds, and when the first batch came. The last is checked."""
    images, first_s, batch = 0, None, None
    for batch in batches:
        images += len(batch.labels)
        first_s = first_s or perf_counter() - start
        if perf_counter() - start > limit_s:
            break
    seconds = perf_counter() - start
    if batch is None:
        raise ValueError(f"an epoch of {len(job.images())} images has too few batches of {job.batch} to be measured")
    check_batch(batch, job)
    return {"images": images, "seconds": seconds, "first_s": first_s}


def check_batch(batch: Batch, job: Job) -> None:
    """Raises ValueError if images differ from their labels; augmented ones and batches of bytes alone pass."""
    if batch.images is None:
        return
    found = np.asarray(batch.images)
    expected = job.images()[np.asarray(batch.labels)]
    if found.dtype == np.uint8 and not np.array_equal(found.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), expected):
        raise ValueError(f"a batch of {len(batch.labels)} images is not what its labels say")


def _versions(peer: ModuleType) -> dict[str, str]:
    """Of the packages that the peer names, and of what it runs on."""
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for package in peer.PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


if __name__ == "__main__":
    main()
