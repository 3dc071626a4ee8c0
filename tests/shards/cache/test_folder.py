"""The folder: what lies in it beside the cache's files, and folders that cannot be used."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from shards import StorageError
from shards.cache.cache import Cache
from shards.cache.shared_folder import SharedFolder
from tests.shards.cache.source import OpenCache, Source, use


def test_strangers_are_left_alone(open_cache: OpenCache, source: Source) -> None:
    folder = open_cache().folder
    hexadecimal = "0" * 64
    strangers = [
        "notes.txt",
        hexadecimal,
        f"{hexadecimal}.TAR",
        f".{hexadecimal}.tar.partial",
        f"{hexadecimal[1:]}.tar",
    ]
    for name in strangers:
        (folder / name).write_bytes(b"x" * 1000)
    (folder / "sub").mkdir()
    (folder / "sub" / source.entry(7).key).touch()
    cache = open_cache(1)
    for number in range(3):
        use(cache, source.entry(number))
    assert {path.name for path in folder.iterdir() if path.name[:5] != ".pins"} == {
        *strangers,
        "sub",
        ".lock",
        source.entry(2).key,
    }
    assert (folder / "sub" / source.entry(7).key).exists()


def test_what_dead_processes_left_is_cleared(open_cache: OpenCache, source: Source) -> None:
    folder = open_cache().folder
    left = [f".{source.entry(1).key}.123-0123abcd.partial{suffix}" for suffix in ("", ".stored")]
    for name in [*left, ".pins.123-0123abcd"]:
        (folder / name).write_text("{")
    open_cache()
    assert not any("0123abcd" in path.name for path in folder.iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"does not lock files .* choose a folder on a local disk"):
        Cache(tmp_path / "cache", 100)


def test_a_folder_with_locks_that_do_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(StorageError, match=r"does not lock files"):
        Cache(tmp_path / "cache", 100)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/cache: cannot be used as a cache: .*Not a directory"):
        Cache(tmp_path / "file" / "cache", 100)


def test_a_user_of_another_version_is_refused(tmp_path: Path) -> None:
    Cache(tmp_path, 100).close()
    with (tmp_path / ".pins.1-00000000").open("w+") as file:
        file.write('{"pid": 1, "new": []}')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"not understood .*another version of kkanji"):
            Cache(tmp_path, 100)


def test_a_lock_that_somebody_keeps_is_an_error(tmp_path: Path) -> None:
    Cache(tmp_path, 100).close()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"/.lock: locked by another process for 0.2 s"):
            Cache(tmp_path, 100, wait_s=0.2)


def test_a_lock_removed_as_it_is_taken_is_taken_anew(open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who removes the whole folder removes the lock too: two processes might each lock a file of its name."""
    shared, lock = SharedFolder(open_cache().folder, wait_s=0.2), fcntl.flock
    name = shared.path / ".lock"
    removed: list[int] = []

    def remove_once(descriptor: int, operation: int) -> None:
        lock(descriptor, operation)
        if not removed:
            removed.append(descriptor)
            name.unlink()

    monkeypatch.setattr(fcntl, "flock", remove_once)
    with shared.locked(), name.open() as file, pytest.raises(BlockingIOError):
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert removed
