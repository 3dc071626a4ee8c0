"""How rates are measured: warm-up, repeats in turn, median and spread, and the machine and versions they belong to."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import sleep
from typing import Any

import numpy
import torch

from benchmarks.peers import IMAGE_SIZE, Job
from benchmarks.rows import Row
from benchmarks.subject import Peer, PeerFailed, Subject
from kkanji import __version__
from kkanji.environment import commit
from shards import write_file

PAUSE_S = 0.5  # between measurements: threads of the previous peer still fill their queues, at the cost of the next
WARM_UP_S = 2.0
DALI_PACKAGES = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")  # for CUDA 12 and 13: the same code, the same versions


class Turns:
    """Measures peers in turn, so that a slow minute of a shared machine affects all of them.

    Use it as a context manager, which ends the peers' processes.
    """

    def __init__(
        self, action: str, jobs: Sequence[tuple[Peer, Job]], python: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """python: interpreter of the environment that has the other libraries."""
        self._stack = ExitStack()
        self._rows: dict[str, Row] = {peer.name: {"name": peer.name, "order": peer.order} for peer, _ in jobs}
        self._subjects: dict[str, Subject] = {}
        for peer, job in jobs:
            interpreter = Path(sys.executable) if peer.own else python
            subject = Subject(action, peer, job, interpreter, environment)
            self._subjects[peer.name] = self._stack.enter_context(subject)

    def rows(self, repeats: int, seconds: float) -> list[Row]:
        """Images/s of each peer after a warm-up, or the reason why it was skipped."""
        for name in list(self._subjects):
            self._rows[name] |= self._try(name, Subject.answer)  # the first answer states the peer's versions
        for name in list(self._subjects):
            # The warm-up fills page cache and thread pools, and compiles.
            self._try(name, lambda subject: subject.measure(min(seconds, WARM_UP_S)))
        answers: dict[str, list[Row]] = {name: [] for name in self._subjects}
        for _ in range(repeats):
            for name in list(self._subjects):
                sleep(PAUSE_S)
                answers[name].append(self._try(name, lambda subject: subject.measure(seconds)))
        for name in self._subjects:
            self._rows[name] |= _summary(answers[name])
        return list(self._rows.values())

    def _try(self, name: str, ask: Callable[[Subject], Row]) -> Row:
        """A peer's answer. If it fails, its row gives the reason, and it is not asked again."""
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
    """Write images.npy with random pixels, which do not compress."""
    folder.mkdir()
    rng = numpy.random.default_rng(0)
    numpy.save(folder / "images.npy", rng.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE), numpy.uint8))


def write_files(peers: Sequence[Peer], jobs: Mapping[str, Job], python: Path) -> None:
    """Write each kind of files once. A failure is ignored here: it shows again when the peer reads the files."""
    for peer in {peer.files: peer for peer in peers}.values():
        interpreter = Path(sys.executable) if peer.own else python
        with Subject("write", peer, jobs[peer.files], interpreter) as subject, suppress(PeerFailed):
            subject.answer()


def environment() -> dict[str, Any]:
    """The machine and the versions that a result depends on."""
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
        "dali": dali_version(),
        "load_before": os.getloadavg()[0],
    }


def dali_version() -> str | None:
    """The version of DALI, by whichever of its packages is installed; None without any."""
    for package in DALI_PACKAGES:
        with suppress(PackageNotFoundError):
            return version(package)
    return None


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write the JSON that tables and charts are made from."""
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
"""The full size: the balanced set of the legacy project, and the hardware threads of a typical host of 8 H100 (two
processors of 52 cores)."""
