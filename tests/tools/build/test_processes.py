"""Work in several processes: results by place, no survivor when one fails, and why it failed is told."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shards import InputError
from tools.build.processes import share_out

Progress = Callable[[int], object]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_results_come_by_place(processes: int) -> None:
    def work(place: int, progress: Progress) -> int:
        progress(1)
        return 10 * place

    assert share_out(processes, work, processes) == [10 * place for place in range(processes)]


def test_each_place_is_a_process_of_its_own(tmp_path: Path) -> None:
    def work(place: int, _: Progress) -> int:
        (tmp_path / str(place)).write_text(str(os.getpid()))
        return 0

    share_out(3, work, 0)
    pids = {(tmp_path / str(place)).read_text() for place in range(3)}
    assert len(pids) == 3 and str(os.getpid()) not in pids


def sleeping(tmp_path: Path, end: Callable[[], object]) -> Callable[[int, Progress], int]:
    """The last of two ends as told once the first sleeps."""

    def work(place: int, _: Progress) -> int:
        if place == 0:
            (tmp_path / "pid").write_text(str(os.getpid()))
            (tmp_path / "ready").touch()
            time.sleep(60)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        end()
        return 0

    return work


def fail() -> None:
    raise InputError("a bad disk")


def crash() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(("end", "code", "told"), [(fail, 2, "error: a bad disk"), (crash, 1, "RuntimeError: a bug")])
def test_when_one_fails_all_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], end: Callable[[], object], code: int, told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        share_out(2, sleeping(tmp_path, end), 0)
    assert caught.value.code == code and told in capfd.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_that_is_killed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ended by SIGKILL \(out of memory\?\)"):
        share_out(2, sleeping(tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL)), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
