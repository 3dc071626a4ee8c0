import os
import re
import socket
from pathlib import Path

import pytest

from shards import FolderLock, InputError, StorageError
from tests.faults.injector import run_injector

ROUNDS = 50


def test_racing_processes_have_one_winner_whom_the_other_names(tmp_path: Path) -> None:
    for said in run_injector("lockers", "racing", tmp_path, ROUNDS):
        held, refused = sorted(said, key=lambda line: not line.startswith("held by "))
        pid = held.removeprefix("held by ")
        assert re.search(rf"/\d+: process {pid} on {re.escape(socket.gethostname())} is writing it; wait", refused)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "a lock's file goes with it"


def test_a_killed_process_keeps_nothing_even_if_a_fork_of_it_lives(tmp_path: Path) -> None:
    for said in run_injector("lockers", "killed", tmp_path, 5):
        assert len(said) == 2 and all(line.startswith("held by ") for line in said)


def test_folders_made_for_the_lock_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with FolderLock(tmp_path / "there" / "runs" / "first"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with FolderLock(tmp_path / "runs" / "first"):
        (tmp_path / "runs" / "second").mkdir()
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "second"]


def test_what_is_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FolderLock(tmp_path / "run"):
        pass
    assert (tmp_path / "run").is_dir(), "it was there before"
    with FolderLock(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_another_machines_process_is_named_as_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel is not asked: what it wrote is all that is known."""
    with FolderLock(tmp_path):
        monkeypatch.setattr("shards.output.lock.holder", lambda _: None)
        with pytest.raises(InputError, match=f"process {os.getpid()} on {re.escape(socket.gethostname())} is writing"):
            FolderLock(tmp_path).__enter__()


def test_a_place_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/run: cannot be locked: .*choose a folder"):
        FolderLock(tmp_path / "file" / "run").__enter__()


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match=r"run: is a file, expected a folder or nothing; choose another --output"):
        FolderLock(tmp_path / "run").__enter__()
    assert (tmp_path / "run").is_file()
