"""What the cache does to the disk stays the same for each file, however many files there are: events, not seconds."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shards.cache.cache import Cache
from tests.shards.cache.source import OpenCache, Source, finished, use

Counted = Callable[[], Counter[str]]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the calls that open, list and stat files, and those that open the folder's lock."""
    found: Counter[str] = Counter()

    def count(name: str) -> Callable[..., object]:
        call = getattr(os, name)

        def wrapped(path: object, *arguments: object, **named: object) -> object:
            found[name] += 1
            found["lock"] += name == "open" and str(path).endswith("/.lock")
            return call(path, *arguments, **named)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("open", "listdir", "scandir", "stat", "unlink"):
            patch.setattr(os, name, count(name))
        yield found


def fill(cache: Cache, source: Source, numbers: range) -> None:
    for number in numbers:
        use(cache, source.entry(number))


def test_a_file_costs_the_same_in_a_full_folder(
    open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(200)
    with counted(monkeypatch) as first:
        fill(cache, source, range(20))
    fill(cache, source, range(20, 140))
    with counted(monkeypatch) as last:
        fill(cache, source, range(140, 160))
    assert first == last
    assert last["listdir"] == 0, "the folder was surveyed"


def test_holding_a_file_takes_no_lock_of_the_folder(
    open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = open_cache(100), open_cache(100)
    fill(cache, source, range(50))
    for number in range(40):
        other.obtain(source.entry(number), ahead=False)
    with counted(monkeypatch) as found:
        use(cache, source.entry(45))
    assert (found["lock"], found["listdir"], found["scandir"]) == (0, 0, 0)
    assert found["open"] == 2, "the file and its lease"


def test_one_survey_serves_many_removals(
    open_cache: OpenCache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(20)
    fill(cache, source, range(20))
    with counted(monkeypatch) as found:
        fill(cache, source, range(20, 120))
    assert cache.counts.evicted == 100
    assert found["listdir"] <= 6
    assert len(finished(cache)) == 20


def test_a_lost_ledger_is_made_again(open_cache: OpenCache, source: Source) -> None:
    """As after a kill in the middle of a change: the limit is kept."""
    cache = open_cache(3)
    for number in range(6):
        (cache.folder / ".lock").write_bytes([b"", b"-", b'{"taken": -1, "users": []}', b'{"taken": 0'][number % 4])
        use(cache, source.entry(number))
        assert len(finished(cache)) == min(3, number + 1)


def test_files_removed_by_hand_give_their_room(open_cache: OpenCache, source: Source) -> None:
    cache = open_cache(3)
    fill(cache, source, range(3))
    for name in finished(cache):
        (cache.folder / name).unlink()
    fill(cache, source, range(3, 6))
    assert cache.counts.evicted == 0
