"""What a user of the cache holds stays, until it is released."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards import StorageError
from shards.cache.cache import Cache
from tests.faults.cachers import held_bytes
from tests.shards.cache.source import SIZE, OpenCache, Source, finished, keys, use


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
    cache = open_cache(1)
    use(cache, source.entry(2))
    assert finished(cache) == keys(source, 2)


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


def test_a_disk_too_full_for_what_is_held_leaves_it_as_it_was(
    open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what is in use must stay readable to others, or they would remove it."""
    cache, other = open_cache(2), open_cache(2)
    cache.obtain(source.entry(1), ahead=False)
    create = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if ".use." in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        cache.obtain(source.entry(2), ahead=False)
    monkeypatch.undo()
    for number in (3, 4):
        use(other, source.entry(number))
    assert finished(cache) == keys(source, 1, 4)
    assert held_bytes(cache.folder) == SIZE
