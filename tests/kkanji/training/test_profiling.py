import gc
import os
import socket
import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kkanji.training import profiling
from kkanji.training.profiling import LEFT_OUT, WARM_UP, profiled, watched, without_garbage_collection


def test_traces_are_written_for_so_many_steps(tmp_path: Path) -> None:
    with profiled(2, tmp_path / "profile") as profiler:
        for _ in range(LEFT_OUT + WARM_UP + 3):
            torch.randn(8, 8) @ torch.randn(8, 8)
            profiler.step()
    (trace,) = (tmp_path / "profile").iterdir()
    assert "aten::mm" in trace.read_text()


def test_none_are_written_unless_asked_for(tmp_path: Path) -> None:
    with profiled(0, tmp_path / "profile") as profiler:
        profiler.step()
    assert not (tmp_path / "profile").exists()


def test_garbage_waits() -> None:
    with without_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set where the watch would end the process."""
    event = threading.Event()

    def leave(status: int) -> None:
        assert status == 1
        event.set()

    monkeypatch.setattr(profiling, "os", SimpleNamespace(_exit=leave))
    monkeypatch.setattr(profiling, "STDERR", os.open(os.devnull, os.O_WRONLY))
    return event


def test_a_stall_ends_the_process_with_a_sentence(
    ended: threading.Event, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    with watched(1, "before the first step") as watch:
        watch.begun()
        watch.moved("in step 7")
        assert ended.wait(60)
    told = capsys.readouterr().err
    name = f"error: rank 3 ({socket.gethostname()}): nothing has moved for 1 s (--stall-seconds 1) in step 7: "
    assert told.startswith(name) and "--resume goes on from the last checkpoint" in told and len(told) < 500


def test_time_in_which_the_process_was_stopped_does_not_count(
    ended: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Ctrl-Z, a scheduler's SIGSTOP or a closed laptop: an hour passes between two looks."""
    hours = count()
    monkeypatch.setattr(profiling, "time", SimpleNamespace(monotonic=lambda: 3600.0 * next(hours)))
    with watched(100, "in step 1") as watch:
        watch.begun()
        watch.moved()
        assert not ended.wait(4)
    assert next(hours) > 2


def test_what_moves_is_not_ended(ended: threading.Event) -> None:
    with watched(1, "in step 1") as watch:
        assert not ended.wait(2), "the first step takes longer than others"
        watch.begun()
        for _ in range(20):
            watch.moved()
            time.sleep(0.1)
    with watched(0, "in step 1"):
        assert not ended.wait(1)
