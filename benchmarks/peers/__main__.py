"""`python -m benchmarks.peers {write,local,bucket} NAME JOB`: run one peer. benchmarks/subject.py starts it.

NAME is a module of this package, or MODULE:FUNCTION to use a function other than the one named as the action. JOB is a
Job as JSON. Answers are lines of JSON on stdout. `write` answers once. `local` and `bucket` first answer with their
versions; then each line of stdin, a number of seconds, makes them measure for that long: `local` in the steady state,
`bucket` from the start of a first epoch.
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
Begin = Callable[[], Any]  # returns a generator of batches


def main() -> None:
    """Entry point. stdout carries answers only; whatever libraries print goes to stderr."""
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
    """Measure in as many epochs as fill the time. In each, the first `ahead` batches are not counted.

    They lie ready in the peer's queues, and would make it look faster than it is.
    """
    images = 0
    seconds = 0.0
    while seconds < limit_s:
        with closing(begin()) as batches:
            deque(islice(batches, ahead), maxlen=0)
            timed = _timed(batches, job, perf_counter(), limit_s - seconds)
        images += timed["images"]
        seconds += timed["seconds"]
    return {"images": images, "seconds": seconds}


def _first_epoch(begin: Begin, job: Job, limit_s: float) -> Answer:
    """Measure from opening the set, with an empty cache, until its last batch or the end of the time."""
    shutil.rmtree(job.cache, ignore_errors=True)
    Path(job.cache).mkdir(parents=True)
    start = perf_counter()
    with closing(begin()) as batches:
        return _timed(batches, job, start, limit_s)


def _timed(batches: Iterator[Batch], job: Job, start: float, limit_s: float) -> Answer:
    """Count until the time or the epoch is over: images, seconds, and seconds to the first batch.

    The last batch is checked afterwards, so that the check costs the peer nothing.
    """
    images, first_s, batch = 0, None, None
    for batch in batches:
        images += len(batch.labels)
        first_s = first_s or perf_counter() - start
        if perf_counter() - start > limit_s:
            break
    seconds = perf_counter() - start
    if batch is None:
        raise ValueError(f"an epoch of {len(job.images())} images has too few batches of {job.batch} to measure")
    check_batch(batch, job)
    return {"images": images, "seconds": seconds, "first_s": first_s}


def check_batch(batch: Batch, job: Job) -> None:
    """Raise ValueError unless the images are those that the labels number. Augmented or absent images pass."""
    if batch.images is None:
        return
    found = np.asarray(batch.images)
    expected = job.images()[np.asarray(batch.labels)]
    if found.dtype == np.uint8 and not np.array_equal(found.reshape(-1, IMAGE_SIZE, IMAGE_SIZE), expected):
        raise ValueError(f"a batch of {len(batch.labels)} images differs from the images that its labels number")


def _versions(peer: ModuleType) -> dict[str, str]:
    """Versions of Python, NumPy and the packages that the peer names."""
    found = {"python": platform.python_version(), "numpy": np.__version__}
    for package in peer.PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


if __name__ == "__main__":
    main()
