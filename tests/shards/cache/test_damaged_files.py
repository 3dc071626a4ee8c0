"""Files of the cache that are not what was made are made again, once."""

import errno
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards import CorruptShard
from shards.cache.cache import Entry
from tests.faults.cachers import held_bytes
from tests.shards.cache.source import SIZE, OpenCache, Source, damage, finished, use


def test_a_changed_file_is_found_made_again_and_reported(open_cache: OpenCache, source: Source) -> None:
    path = use(open_cache(), source.entry(1))
    damage(path)
    cache = open_cache()
    with pytest.warns(RuntimeWarning, match=rf"{path}: block 000000 has another crc32; making it again") as told:
        assert cache.obtain(source.entry(1), ahead=False) == path
    assert len(told) == 1
    assert path.read_bytes() == bytes([1]) * SIZE
    assert source.made == [1, 1]
    assert (cache.counts.refetched, cache.counts.misses) == (1, 1)


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


def test_a_corrupt_file_found_by_many_threads_is_reported_once(open_cache: OpenCache, source: Source) -> None:
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
