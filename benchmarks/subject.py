"""A peer in a process of its own, which measures once for each request.

So no peer's memory, threads or crash affects another's figure, and peers may run in another Python environment. Every
failure becomes a PeerFailed with the reason, so that no row of a table is silently missing.
"""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers import Job

ROOT = Path(__file__).parents[1]
END_S = 10
ANSWER_S = 600  # no peer takes ten minutes to write a set or to measure, unless it hangs


class PeerFailed(Exception):
    """The peer is not installed, failed, or does not answer. The message gives the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One of the ways to feed images that a benchmark compares."""

    name: str
    """Name in tables."""
    module: str
    """Where it is implemented in benchmarks/peers: MODULE or MODULE:FUNCTION."""
    files: str = "packed"
    """Name of the files that it reads; peers with the same name share them. Packed shards by default."""
    order: str
    """What is shuffled: only peers with the same kind of order are comparable."""
    own: bool = False
    """Whether it runs in kkanji's environment rather than in that of the other libraries; false by default."""


class Subject:
    """`with Subject(action, peer, job, python) as subject:` runs `python -m benchmarks.peers`."""

    def __init__(
        self, action: str, peer: Peer, job: Job, python: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603  (our own command)
            [python, "-m", "benchmarks.peers", action, peer.module, json.dumps(asdict(job))],
            bufsize=0,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    def answer(self) -> dict[str, Any]:
        """Read the peer's next line, a JSON object. Raises PeerFailed."""
        assert self._process.stdout is not None  # noqa: S101  (opened as a pipe)
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        if not ready:
            raise PeerFailed(f"no answer within {ANSWER_S} s")
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(f"ended with status {self._process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise PeerFailed(answer["failed"])
        return answer

    def measure(self, seconds: float) -> dict[str, Any]:
        """Measure once for about this long; the answer has the number of images and the seconds. Raises PeerFailed."""
        assert self._process.stdin is not None  # noqa: S101  (opened as a pipe)
        try:
            self._process.stdin.write(f"{seconds}\n".encode())
        except BrokenPipeError:
            raise PeerFailed(f"ended with status {self._process.wait()}: {self._last_words()}") from None
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)  # it ends when stdin is closed, and removes its shared memory
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # worker processes that it may have left behind
        self._process.wait()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "no output"
