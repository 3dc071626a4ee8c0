"""Processes that share a cache and are killed, stopped, forked, or find the disk full."""

import signal
from functools import partial
from pathlib import Path

from tests.faults import injector
from tests.faults.injector import needs_small_disk, on_small_disk

run_injector = partial(injector.run_injector, "cachers")


def test_processes_that_need_the_same_files_make_each_once(tmp_path: Path) -> None:
    found = run_injector("together", tmp_path, 6)
    assert found["codes"] == [0] * 6
    assert sorted(map(int, found["makes"])) == list(range(12))
    assert found["files"] == 12


def test_random_sigkills_leave_right_files_within_the_limit(tmp_path: Path) -> None:
    found = run_injector("churn", tmp_path, 4, 120)
    assert found["problems"] == []
    assert found["codes"] == [0] * 4
    assert found["left"] == [".lock"]
    assert min(found["uses"]) > 3


def test_a_sigkill_at_each_step_is_overcome(tmp_path: Path) -> None:
    found = run_injector("killed-by-step", tmp_path)
    assert found["problems"] == []
    assert found["codes"][-1] == 0
    assert len(found["codes"]) > 100
    assert set(found["codes"][:-1]) == {-signal.SIGKILL}


def test_a_waiter_takes_over_from_a_killed_maker(tmp_path: Path) -> None:
    found = run_injector("dying-maker", tmp_path)
    assert found["refused"], "brought in ahead, though another process was making it"
    assert found["right"]
    assert found["code"] == -signal.SIGKILL
    assert not any("partial" in name for name in found["left"])


def test_a_stopped_maker_is_named(tmp_path: Path) -> None:
    found = run_injector("stopped-maker", tmp_path)
    assert found["kind"] == "StorageError"
    expected = f"process {found['pid']} is making it and has written nothing for 1 s; end that process"
    assert expected in found["message"]


def test_a_fork_neither_uses_nor_keeps_its_parents_files(tmp_path: Path) -> None:
    found = run_injector("forked", tmp_path)
    assert (found["code"], found["dead"]) == (1, -signal.SIGKILL)
    assert found["right"]


def test_64_descriptors_suffice_and_none_leaks(tmp_path: Path) -> None:
    found = run_injector("descriptors", tmp_path)["found"]
    assert [each == found[0] for each in found] == [True] * 4
    assert found[0][0] < 20


@needs_small_disk
def test_a_full_disk_is_named_and_left_clean(tmp_path: Path) -> None:
    found = run_injector("full", tmp_path, wrap=on_small_disk(tmp_path))
    assert found["kind"] == "StorageError"
    assert "No space left on device: 3,145,728 bytes needed, 2,0" in found["message"]
    assert "free; free some space or lower --cache-size" in found["message"]
    assert [name[:5] for name in found["left"]] == [".lock", ".pins"]
    assert found["held"] == 0
