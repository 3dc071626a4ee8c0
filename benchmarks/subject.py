"""A peer in a process of its own, asked for one measurement at a time.

So that neither memory nor threads nor a crash of one touches another's figure, and that peers may live in another
environment. Whatever goes wrong becomes PeerFailed with the reason, never a missing row.
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
ANSWER_S = 600  # no peer should be so slow as to write a set, or measure, for ten minutes


class PeerFailed(Exception):
    """The peer is not installed, failed or does not answer; the message is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Something to compare."""

    name: str
    """As tables show it."""
    module: str
    """In benchmarks/peers: MODULE or MODULE:FUNCTION."""
    files: str = "packed"
    """Peers of one name here read the same files."""
    order: str
    """What is shuffled; figures compare within one kind."""
    own: bool = False
    """Runs in kkanji's environment, not in the peers'."""


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
        """The next line that it says. Raises PeerFailed."""
        assert self._process.stdout is not None  # noqa: S101  (it was given one)
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
        """One measurement of about so long: images, and the seconds it took."""
        assert self._process.stdin is not None  # noqa: S101  (it was given one)
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
            self._process.wait(END_S)  # no more questions: it ends, and clears its shared memory away
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # and what it left, as worker processes
        self._process.wait()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"
