"""The cache: what it serves is right, within its limit, whoever else uses it and whatever happens to them."""

import errno
import fcntl
import hashlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from shards import CorruptShard, MissingShard, StorageError
from shards.cache.cache import Cache, Entry
from shards.cache.shared_folder import SharedFolder
from tests.faults import injector
from tests.faults.cachers import held_bytes
from tests.faults.injector import needs_small_disk, on_small_disk

ROOT = Path(__file__).parents[3]
SIZE = 100
run_injector = partial(injector.run_injector, "cachers")


class Source:
    """Makes items of 100 bytes and remembers how often each was made."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.spoilt: list[int] = []
        """Numbers whose next makes go wrong."""
        self.checked: list[int] = []

    def entry(self, number: int, *, size: int = SIZE, extra: int = 0) -> Entry:
        data = bytes([number]) * size

        def make(path: Path) -> None:
            assert not path.exists()
            self.made.append(number)
            path.write_bytes(data if number not in self.spoilt else data[:-1] + b"!")
            if number in self.spoilt:
                self.spoilt.remove(number)

        def check(path: Path) -> str | None:
            self.checked.append(number)
            return None if path.read_bytes() == data else "block 000000 has another crc32"

        key = f"{hashlib.sha256(data).hexdigest()}.tar"
        return Entry(key=key, size=size, make=make, check=check, extra=extra)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[Callable[..., Cache]]:
    """`open_cache(files=3)`: a cache with room for so many items; a short wait is no race, as nobody else moves."""
    opened = []

    def build(files: float = 3, *, wait_s: float = 0.2) -> Cache:
        opened.append(Cache(tmp_path / "cache", int(files * SIZE), wait_s=wait_s))
        return opened[-1]

    yield build
    for cache in opened:
        cache.close()


OpenCache = Callable[..., Cache]


def use(cache: Cache, entry: Entry) -> Path:
    """Obtain and release."""
    path = cache.obtain(entry, ahead=False)
    assert path is not None
    cache.release(entry.key)
    return path


def finished(cache: Cache) -> set[str]:
    """Names of complete files."""
    return {path.name for path in cache.folder.iterdir() if not path.name.startswith(".")}


def keys(source: Source, *numbers: int) -> set[str]:
    return {source.entry(number).key for number in numbers}


def test_a_file_is_made_once_and_then_found(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache()
    path = cache.obtain(source.entry(1), ahead=False)
    assert path == cache.folder / source.entry(1).key
    assert path.read_bytes() == bytes([1]) * SIZE
    assert cache.obtain(source.entry(1), ahead=False) == path
    assert source.made == [1]
    counts = cache.counts
    assert (counts.hits, counts.misses, counts.made) == (1, 1, 1)
    assert held_bytes(cache.folder) == SIZE


def test_files_outlive_the_cache_object(open_cache: OpenCache, source: Source) -> None:
    with open_cache() as cache:
        use(cache, source.entry(1))
    use(open_cache(), source.entry(1))
    assert source.made == [1]


def test_nothing_is_left_but_files_and_the_lock(open_cache: OpenCache, source: Source) -> None:
    with open_cache() as cache:
        use(cache, source.entry(1))
    assert {path.name for path in cache.folder.iterdir()} == {".lock", source.entry(1).key}


def test_the_least_recently_used_goes_first(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(3)
    for number in (1, 2, 3, 1, 4):
        use(cache, source.entry(number))
    assert finished(cache) == keys(source, 1, 3, 4)
    assert cache.counts.evicted == 1


def test_no_more_goes_than_must(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(5)
    for number in range(5):
        use(cache, source.entry(number))
    use(cache, source.entry(5, size=2 * SIZE))
    assert len(finished(cache)) == 4
    assert cache.counts.evicted == 2


def test_a_smaller_limit_than_before_is_kept(open_cache: OpenCache, source: Source) -> None:
    for number in range(5):
        use(open_cache(5), source.entry(number))
    cache = open_cache(2)
    use(cache, source.entry(9))
    assert finished(cache) == keys(source, 4, 9)


def test_a_file_in_use_stays(open_cache: OpenCache, source: Source) -> None:
    cache, other = open_cache(3), open_cache(3)
    cache.obtain(source.entry(1), ahead=False)
    for number in range(2, 9):
        use(other, source.entry(number))
    assert keys(source, 1, 8) <= finished(cache)
    cache.release(source.entry(1).key)
    for number in range(2, 5):
        use(other, source.entry(number))
    assert finished(cache) == keys(source, 2, 3, 4)


def test_each_use_needs_its_release(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(1)
    for _ in range(2):
        cache.obtain(source.entry(1), ahead=False)
    cache.release(source.entry(1).key)
    assert cache.obtain(source.entry(2), ahead=True) is None
    cache.release(source.entry(1).key)
    assert cache.obtain(source.entry(2), ahead=True)


def test_releasing_what_is_not_held_does_nothing(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache()
    cache.release(source.entry(1).key)
    use(cache, source.entry(1))
    cache.release(source.entry(1).key)
    assert held_bytes(cache.folder) == 0


def test_closing_releases_everything(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(2)
    cache.obtain(source.entry(1), ahead=False)
    cache.obtain(source.entry(2), ahead=True)
    cache.close()
    cache.close()
    other = open_cache(2)
    for number in (3, 4):
        other.obtain(source.entry(number), ahead=False)
    assert finished(other) == keys(source, 3, 4)
    with pytest.raises(RuntimeError, match="closed"):
        cache.obtain(source.entry(1), ahead=False)


def test_a_forgotten_cache_holds_nothing(open_cache: OpenCache, source: Source, tmp_path: Path) -> None:
    """A reader dropped without closing it must not keep its files for the rest of the process."""
    forgotten = Cache(tmp_path / "cache", SIZE)
    forgotten.obtain(source.entry(1), ahead=False)
    del forgotten
    use(open_cache(1), source.entry(2))


def test_ahead_takes_only_what_nobody_holds(open_cache: OpenCache, source: Source) -> None:
    cache, other = open_cache(3), open_cache(3)
    cache.obtain(source.entry(1), ahead=False)
    assert cache.obtain(source.entry(2), ahead=True)
    use(cache, source.entry(3))
    assert other.obtain(source.entry(4), ahead=True)
    assert finished(cache) == keys(source, 1, 2, 4)
    assert other.obtain(source.entry(5), ahead=True) is None
    assert finished(cache) == keys(source, 1, 2, 4)
    assert (other.counts.hits, other.counts.misses, other.counts.made) == (0, 0, 1)


def test_what_is_needed_now_takes_what_is_held_ahead(open_cache: OpenCache, source: Source) -> None:
    """Unused files first, then the one that was brought in last and hence is needed last."""
    cache, other = open_cache(4), open_cache(4)
    cache.obtain(source.entry(1), ahead=True)
    other.obtain(source.entry(2), ahead=True)
    cache.obtain(source.entry(3), ahead=True)
    use(other, source.entry(4))
    cache.obtain(source.entry(5), ahead=False)
    assert finished(cache) == keys(source, 1, 2, 3, 5)
    cache.obtain(source.entry(6), ahead=False)
    assert finished(cache) == keys(source, 1, 2, 5, 6)


def test_ahead_becomes_in_use(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(2)
    cache.obtain(source.entry(1), ahead=True)
    assert cache.obtain(source.entry(1), ahead=False)
    assert (cache.counts.hits, cache.counts.misses) == (1, 0)
    for number in (2, 3):
        use(cache, source.entry(number))
    assert finished(cache) == keys(source, 1, 3)
    cache.release(source.entry(1).key)
    assert held_bytes(cache.folder) == 0
    assert cache.obtain(source.entry(4, size=2 * SIZE), ahead=True)


def test_what_was_held_ahead_and_taken_is_made_again(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(1)
    cache.obtain(source.entry(1), ahead=True)
    use(cache, source.entry(2))
    use(cache, source.entry(1))
    assert source.made == [1, 2, 1]


def test_releasing_what_is_held_ahead(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(1)
    cache.obtain(source.entry(1), ahead=True)
    assert cache.obtain(source.entry(2), ahead=True) is None
    cache.release(source.entry(1).key)
    assert cache.obtain(source.entry(2), ahead=True)


def test_an_item_larger_than_the_cache_is_refused(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(2)
    use(cache, source.entry(1))
    for entry in (source.entry(2, size=201), source.entry(2, size=200, extra=1)):
        with pytest.raises(StorageError, match=r"needs 201 bytes, the cache may have 200; raise --cache-size"):
            cache.obtain(entry, ahead=True)
    assert finished(cache) == keys(source, 1)


def test_room_to_make_is_set_aside_and_given_back(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(3)
    for number in (1, 2):
        use(cache, source.entry(number))
    use(cache, source.entry(3, extra=SIZE))
    assert finished(cache) == keys(source, 2, 3)
    use(cache, source.entry(4))
    assert finished(cache) == keys(source, 2, 3, 4)


def test_no_room_is_explained(open_cache: OpenCache, source: Source) -> None:
    cache, other = open_cache(3), open_cache(3)
    for number in (1, 2):
        cache.obtain(source.entry(number), ahead=False)
    other.obtain(source.entry(3), ahead=False)
    with pytest.raises(StorageError) as raised:
        cache.obtain(source.entry(4), ahead=False)
    message, process = str(raised.value), f"process {os.getpid()}"
    assert message.startswith(
        f"{cache.folder}: no room in 0.2 s for {source.entry(4).key}, 100 bytes: 300 of 300 are in use"
    )
    assert f"{process}: 2 files, 200 bytes" in message
    assert f"{process}: 1 files, 100 bytes" in message
    assert message.endswith("give a --cache-size of 400 or more")
    other.release(source.entry(3).key)
    assert other.obtain(source.entry(5), ahead=True), "who gave up waiting still keeps others off"


def test_needed_now_waits_for_room_and_comes_before_ahead(open_cache: OpenCache, source: Source) -> None:
    cache, other = open_cache(2, wait_s=60), open_cache(2)
    for number in (1, 2):
        other.obtain(source.entry(number), ahead=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.obtain, source.entry(3, size=2 * SIZE), ahead=False)
        while not anybody_waits(cache.folder):
            time.sleep(0.01)
        other.release(source.entry(1).key)
        assert other.obtain(source.entry(4), ahead=True) is None
        other.release(source.entry(2).key)
        assert waiting.result(60) is not None
    assert cache.counts.misses == 1


def test_a_changed_file_is_found_made_again_and_told(open_cache: OpenCache, source: Source) -> None:
    path = use(open_cache(), source.entry(1))
    damage(path)
    cache = open_cache()
    with pytest.warns(RuntimeWarning, match=rf"{path}: block 000000 has another crc32; making it again") as told:
        assert cache.obtain(source.entry(1), ahead=False) == path
    assert len(told) == 1
    assert path.read_bytes() == bytes([1]) * SIZE
    assert source.made == [1, 1]
    assert (cache.counts.refetched, cache.counts.misses) == (1, 1)


def anybody_waits(folder: Path) -> bool:
    shared = SharedFolder(folder, wait_s=60)
    with shared.locked():
        waiting = shared.survey().waiting
    shared.close()
    return waiting


def damage(path: Path, size: int = SIZE) -> None:
    """Other bytes, and the old modification time."""
    stats = path.stat()
    path.write_bytes(b"?" * size)
    os.utime(path, ns=(stats.st_atime_ns, stats.st_mtime_ns))


def test_every_cache_object_checks_once(open_cache: OpenCache, source: Source) -> None:
    for cache in (open_cache(), open_cache()):
        for _ in range(3):
            use(cache, source.entry(1))
    assert source.checked == [1, 1]


def test_a_file_that_was_touched_is_checked_again(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache()
    path = use(cache, source.entry(1))
    path.write_bytes(b"?" * SIZE)
    with pytest.warns(RuntimeWarning, match="making it again"):
        use(cache, source.entry(1))
    assert path.read_bytes() == bytes([1]) * SIZE


@pytest.mark.parametrize("size", [0, 99, 101])
def test_a_file_of_another_size_is_made_again(open_cache: OpenCache, source: Source, size: int) -> None:
    cache = open_cache()
    path = use(cache, source.entry(1))
    damage(path, size)
    with pytest.warns(RuntimeWarning, match=rf"{size} bytes, expected 100; making it again"):
        use(cache, source.entry(1))
    assert path.read_bytes() == bytes([1]) * SIZE


@pytest.mark.parametrize("ahead", [False, True])
def test_a_file_made_wrong_is_made_again(open_cache: OpenCache, source: Source, ahead: bool) -> None:
    source.spoilt = [1]
    cache = open_cache()
    with pytest.warns(RuntimeWarning, match=r"as made just now: block 000000 .*; making it again"):
        path = cache.obtain(source.entry(1), ahead=ahead)
    assert path is not None
    assert path.read_bytes() == bytes([1]) * SIZE
    assert (cache.counts.refetched, cache.counts.made) == (1, 1)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_file_that_stays_wrong_is_an_error(open_cache: OpenCache, source: Source, ahead: bool) -> None:
    source.spoilt = [1, 1]
    cache = open_cache(1)
    with (
        pytest.raises(CorruptShard, match=r"000000 .* made again after: .* 000000 .*; the stored shard is damaged"),
        pytest.warns(RuntimeWarning, match="making it again"),
    ):
        cache.obtain(source.entry(1), ahead=ahead)
    assert finished(cache) == set()
    assert held_bytes(cache.folder) == 0
    assert cache.obtain(source.entry(2), ahead=True), "the failed file takes room"


def test_damage_that_making_finds_counts_as_damage(open_cache: OpenCache, source: Source) -> None:
    made = []

    def make(path: Path) -> None:
        made.append(path)
        if len(made) == 1:
            path.write_bytes(b"half")
            raise CorruptShard("sha256 differs")
        source.entry(1).make(path)

    entry = source.entry(1)
    with pytest.warns(RuntimeWarning, match="sha256 differs; making it again"):
        use(open_cache(), Entry(key=entry.key, size=SIZE, make=make, check=entry.check))


def test_damage_and_then_damage_is_an_error(open_cache: OpenCache, source: Source) -> None:
    damage(use(open_cache(), source.entry(1)))
    source.spoilt = [1]
    with pytest.raises(CorruptShard), pytest.warns(RuntimeWarning, match="making it again"):
        open_cache().obtain(source.entry(1), ahead=False)


def test_a_file_that_cannot_be_read_is_made_again(open_cache: OpenCache, source: Source) -> None:
    entry, failures = source.entry(1), [OSError(errno.EIO, "Input/output error")]

    def check(path: Path) -> str | None:
        if source.made == [1] and failures:
            raise failures.pop()
        return entry.check(path)

    use(open_cache(), entry)
    with pytest.warns(RuntimeWarning, match=r"Input/output error; making it again"):
        use(open_cache(), Entry(key=entry.key, size=SIZE, make=entry.make, check=check))
    assert source.made == [1, 1]


def test_an_error_of_checking_passes_and_holds_nothing(open_cache: OpenCache, source: Source) -> None:
    def check(_: Path) -> str | None:
        raise ValueError("mine")

    entry = source.entry(1)
    path = use(open_cache(), entry)
    cache = open_cache(1)
    with pytest.raises(ValueError, match="mine"):
        cache.obtain(Entry(key=entry.key, size=SIZE, make=entry.make, check=check), ahead=False)
    assert path.exists()
    assert held_bytes(cache.folder) == 0


@pytest.mark.parametrize("error", [MissingShard("gone"), KeyboardInterrupt(), ValueError("mine")])
def test_an_error_of_making_leaves_nothing_and_passes(
    open_cache: OpenCache, source: Source, error: BaseException
) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"half")
        path.with_name(f"{path.name}.stored").write_bytes(b"other half")
        raise error

    cache = open_cache(1)
    with pytest.raises(type(error)):
        cache.obtain(Entry(key=source.entry(1).key, size=SIZE, make=make, check=lambda _: None), ahead=False)
    assert [path.name for path in cache.folder.iterdir() if source.entry(1).key in path.name] == []
    assert held_bytes(cache.folder) == 0
    assert cache.obtain(source.entry(2), ahead=True), "the failed file takes room"


def test_files_beside_the_one_made_are_cleared(open_cache: OpenCache, source: Source) -> None:
    def make(path: Path) -> None:
        path.with_name(f"{path.name}.stored").write_bytes(b"compressed")
        source.entry(1).make(path)

    entry = source.entry(1)
    with open_cache() as cache:
        use(cache, Entry(key=entry.key, size=SIZE, make=make, check=entry.check))
    assert {path.name for path in cache.folder.iterdir()} == {".lock", entry.key}


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


def test_the_folder_may_be_removed_under_way(open_cache: OpenCache, source: Source) -> None:
    cache, other = open_cache(1), open_cache(1)
    cache.obtain(source.entry(1), ahead=False)
    for path in cache.folder.iterdir():
        path.unlink()
    cache.folder.rmdir()
    assert other.obtain(source.entry(1), ahead=False)
    other.release(source.entry(1).key)
    cache.obtain(source.entry(1), ahead=False)
    assert other.obtain(source.entry(2), ahead=True) is None, "the first one's use is forgotten"


def test_many_threads_of_one_object(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(8, wait_s=60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda position: use(cache, source.entry(position % 12)), range(400)))
        assert len(finished(cache)) == 8
        source.made.clear()
        list(pool.map(lambda position: use(cache, source.entry(20 + position % 2)), range(16)))
    assert sorted(source.made) == [20, 21]
    assert held_bytes(cache.folder) == 0
    assert cache.counts.hits + cache.counts.misses == 416


def test_a_corrupt_file_found_by_many_threads_is_told_once(open_cache: OpenCache, source: Source) -> None:
    damage(use(open_cache(), source.entry(1)))
    cache, gate = open_cache(wait_s=60), threading.Barrier(4)
    entry = source.entry(1)

    def check(path: Path) -> str | None:
        wrong = entry.check(path)
        if wrong:
            gate.wait(60)
        return wrong

    patient = Entry(key=entry.key, size=SIZE, make=entry.make, check=check)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: use(cache, patient), range(4)))
    assert [str(each.message).endswith("making it again") for each in told] == [True]
    assert source.made == [1, 1]
    assert cache.counts.refetched == 1


@pytest.mark.parametrize("key", ["", "a.tar", "../../etc/passwd", f"{'0' * 64}", f"{'0' * 64}./x", f".{'0' * 64}.tar"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="expected a key of 64 hex digits"):
        Entry(key=key, size=1, make=lambda _: None, check=lambda _: None)


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
        with pytest.raises(StorageError, match=r"not understood .* another version of kkanji"):
            Cache(tmp_path, 100)


def test_a_lock_that_somebody_keeps_is_an_error(tmp_path: Path) -> None:
    Cache(tmp_path, 100).close()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"/.lock: locked by another process for 0.2 s"):
            Cache(tmp_path, 100, wait_s=0.2)


def test_a_lock_removed_as_it_is_taken_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    folder.close()
    assert removed


def test_a_disk_too_full_for_what_is_held_leaves_it_as_it_was(
    open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what is in use must stay readable to others, or they would remove it."""
    cache, other = open_cache(2), open_cache(2)
    cache.obtain(source.entry(1), ahead=False)
    (used,) = (
        held for path in cache.folder.glob(".pins.*") if source.entry(1).key.encode() in (held := path.read_bytes())
    )
    write = os.pwrite

    def refuse(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) > len(used):
            write(descriptor, data[: len(used)], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        cache.obtain(source.entry(2), ahead=False)
    monkeypatch.undo()
    for number in (3, 4):
        use(other, source.entry(number))
    assert finished(cache) == keys(source, 1, 4)
    assert held_bytes(cache.folder) == SIZE


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
