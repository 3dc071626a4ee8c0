"""How rates are measured: warm-up, repeats in turn, median and spread, and what they were measured on."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import sleep
from typing import Any

import numpy
import torch

from benchmarks.peers import IMAGE_SIZE, Job
from benchmarks.subject import Peer, PeerFailed, Subject
from kkanji import __version__
from kkanji.environment import commit
from shards import write_file

SETTLE_S = 0.5  # prefetching threads of the peer before fill their queues; the next must not pay for that
WARM_UP_S = 2.0
Row = dict[str, Any]


class Turns:
    """Peers that take turns, so that a slow minute of a shared machine hits all of them."""

    def __init__(
        self, action: str, jobs: Sequence[tuple[Peer, Job]], python: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """python: of the peers' environment. Use as a context manager: it ends their processes."""
        self._stack = ExitStack()
        self._rows: dict[str, Row] = {peer.name: {"name": peer.name, "order": peer.order} for peer, _ in jobs}
        self._subjects: dict[str, Subject] = {}
        for peer, job in jobs:
            interpreter = Path(sys.executable) if peer.own else python
            subject = Subject(action, peer, job, interpreter, environment)
            self._subjects[peer.name] = self._stack.enter_context(subject)

    def rows(self, repeats: int, seconds: float) -> list[Row]:
        """Images/s of each after a warm-up, or why there is none."""
        for name in list(self._subjects):
            self._rows[name] |= self._try(name, Subject.answer)  # its versions
        for name in list(self._subjects):
            self._try(name, lambda subject: subject.measure(min(seconds, WARM_UP_S)))  # page cache, compilation, pools
        answers: dict[str, list[Row]] = {name: [] for name in self._subjects}
        for _ in range(repeats):
            for name in list(self._subjects):
                sleep(SETTLE_S)
                answers[name].append(self._try(name, lambda subject: subject.measure(seconds)))
        for name in self._subjects:
            self._rows[name] |= _summary(answers[name])
        return list(self._rows.values())

    def _try(self, name: str, ask: Callable[[Subject], Row]) -> Row:
        """An answer, or none from now on: then the row says why."""
        try:
            return ask(self._subjects[name])
        except PeerFailed as failure:
            self._rows[name]["skipped"] = str(failure)
            del self._subjects[name]
            sys.stderr.write(f"skipped: {name}: {failure}\n")
            return {}

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def make_images(folder: Path, count: int) -> None:
    """Random pixels, which no compression makes smaller."""
    folder.mkdir()
    rng = numpy.random.default_rng(0)
    numpy.save(folder / "images.npy", rng.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE), numpy.uint8))


def write_files(peers: Sequence[Peer], jobs: Mapping[str, Job], python: Path) -> None:
    """Have each kind of files written once. Who cannot write them will say so when it is to read them."""
    for peer in {peer.files: peer for peer in peers}.values():
        interpreter = Path(sys.executable) if peer.own else python
        with Subject("write", peer, jobs[peer.files], interpreter) as subject, suppress(PeerFailed):
            subject.answer()


def environment() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "kkanji": __version__,
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "dali": version("nvidia-dali-cuda120"),
        "load_before": os.getloadavg()[0],
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """The JSON that tables are made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(result, indent=1) + "\n")


def _summary(answers: Sequence[Row]) -> Row:
    rates = [answer["images"] / answer["seconds"] for answer in answers]
    summary = {"n": len(rates), "median": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
    firsts = [answer["first_s"] for answer in answers if "first_s" in answer]
    return summary | ({"first_batch_s": statistics.median(firsts)} if firsts else {})


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


FULL = {"classes": 3_832, "images_of_a_class": 10_000, "cores": 208}
"""A host of 8 H100 has about so many cores (two processors of 52, two threads each); the set is the original's."""
