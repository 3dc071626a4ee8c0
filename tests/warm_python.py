"""Python processes that need not import torch: forked from a server that has imported it, and has done nothing else.

A command under test stays a process of its own, with its own environment, streams, signals and exit code. But the
imports of torch, timm, Accelerate and DALI, most of the time of a short run, happen once for each process of pytest.
"""

import atexit
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import TimeoutExpired
from types import TracebackType
from typing import Any, Self

import pytest

ROOT = Path(__file__).parents[1]
IMPORTS = "tests.warm_imports"
_CONTEXT = get_context("forkserver")


class WarmPython:
    """A running `python COMMAND`, as `subprocess.Popen` has it. COMMAND begins with a script, or -m and a module."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], folder: Path | None) -> None:
        start_server()
        read, write = os.pipe()
        self.stdout = os.fdopen(read, encoding="utf-8")
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")
        streams = (DupFd(write), DupFd(self._stderr.fileno()))
        self._process = _CONTEXT.Process(target=_run, args=(list(command), *streams, dict(environment), folder))
        self._process.start()
        os.close(write)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired("python", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The rest of stdout, and all of stderr. Kills the process at the timeout."""
        watch = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        watch.start()
        rest = self.stdout.read()
        self.wait()
        watch.cancel()
        self._stderr.seek(0)
        return rest, self._stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdout.close()
        if kind is not None:
            self.kill()
        self.wait()
        self._stderr.close()


def start_server() -> None:
    """Start the server, with what its imports need in the environment, if it does not run yet."""
    forkserver.set_forkserver_preload([IMPORTS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")  # torch reads it once
        forkserver.ensure_running()


def _run(command: list[str], stdout: Any, stderr: Any, environment: dict[str, str], folder: Path | None) -> None:
    """In the new process: become `python COMMAND`."""
    assert len(os.listdir("/proc/self/task")) == 1, "a module of IMPORTS starts a thread, which a fork loses"
    for stream, descriptor in ((1, stdout.detach()), (2, stderr.detach())):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8", buffering=1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder or os.curdir)
    try:
        _run_main(command)
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


def _run_main(command: list[str]) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
