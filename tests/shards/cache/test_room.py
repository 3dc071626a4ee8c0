"""What goes to make room, and what happens when there is none."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards import StorageError
from shards.cache.shared_folder import SharedFolder
from tests.faults.cachers import held_bytes
from tests.shards.cache.source import SIZE, OpenCache, Source, finished, keys, use


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


def test_an_item_larger_than_the_cache_is_refused(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(2)
    use(cache, source.entry(1))
    for entry in (source.entry(2, size=201), source.entry(2, size=200, extra=1)):
        with pytest.raises(
            StorageError, match=r"needs 201 bytes, the cache may have 200; give a --cache-size of 0.001 or more"
        ):
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
    assert message.endswith("give a --cache-size of 0.001 or more")
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


def anybody_waits(folder: Path) -> bool:
    shared = SharedFolder(folder, wait_s=60)
    with shared.locked():
        waiting = shared.survey().waiting
    shared.close()
    return waiting
