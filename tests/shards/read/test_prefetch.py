"""Shards are there when a request is served, brought before that, and let go of when nobody needs them any more."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import InputError, StorageError, WindowedOrder
from shards.read import opening
from shards.read.files import SplitFiles
from shards.read.prefetch import AHEAD_BYTES, WINDOW_FRACTION, Numbers, Prefetcher, Shards, shards_ahead

SAMPLES = 10  # of each shard


class Bench:
    """A source of files and a shelf for them; notes what happens to each."""

    def __init__(
        self, shards: int, *, size: int = 1, room: int = 1 << 40, refuse: bool = False, broken: int = -1
    ) -> None:
        self.shards = [SimpleNamespace(samples=SAMPLES)] * shards
        self.sizes, self.samples = [size] * shards, [SAMPLES] * shards
        self.room_bytes = room
        self.whole_set_fits = shards * size <= room
        self.short = self.full = False
        self.put_count = 0
        self.refuse, self.broken = refuse, broken
        self.lock = threading.Lock()
        self.ahead: list[int] = []
        self.held: list[int] = []
        self.shelved: set[int] = set()
        self.most = 0

    def share_bytes(self) -> int:
        return self.room_bytes

    def is_short(self) -> bool:
        return self.short

    def obtain(self, number: int, *, ahead: bool = False, let_go: Callable[[], object] = lambda: None) -> Path | None:
        if number == self.broken:
            raise StorageError(f"shard {number} cannot be read")
        with self.lock:
            if ahead:
                self.ahead.append(number)
                return None if self.refuse else Path(str(number))
        if self.full:
            let_go()
        with self.lock:
            self.held.append(number)
        return Path(str(number))

    def release(self, number: int) -> None:
        with self.lock:
            if number in self.held:
                self.held.remove(number)

    def put(self, number: int, path: Path) -> None:
        assert path == Path(str(number)) and number in self.held and number not in self.shelved
        self.shelved.add(number)
        self.put_count += 1
        self.most = max(self.most, len(self.shelved))

    def take_off(self, number: int) -> None:
        self.shelved.remove(number)

    def serve(self, requests: Iterator[Numbers]) -> Iterator[Numbers]:
        return Prefetcher(cast(SplitFiles, self), self, shards_of).serve(requests)


def shards_of(numbers: Numbers) -> Shards:
    return np.unique(numbers // SAMPLES)


def requests(*shards: list[int]) -> Iterator[Numbers]:
    """Each for a sample of each of its shards."""
    return (np.array(numbers, np.int64) * SAMPLES for numbers in shards)


@given(
    shards=st.integers(1, 12),
    window=st.integers(1, 4),
    batch=st.integers(1, 30),
    seed=st.integers(0, 99),
    refuse=st.booleans(),
)
def test_every_request_finds_its_shards(shards: int, window: int, batch: int, seed: int, refuse: bool) -> None:
    """Also when the cache has no room for anything ahead of use."""
    order, bench = WindowedOrder([SAMPLES] * shards, seed=seed, window=window), Bench(shards, refuse=refuse)
    spans = [(start, start + batch) for start in range(0, 3 * order.samples, batch)]
    served = 0
    for numbers, span in zip(bench.serve(order.at(*each) for each in spans), spans, strict=True):
        assert np.array_equal(numbers, order.at(*span))
        assert bench.shelved >= {*shards_of(numbers).tolist()}
        served += 1
    assert served == len(spans)
    assert not bench.shelved and not bench.held


@pytest.mark.parametrize(("size", "ahead"), [(1, 16), (AHEAD_BYTES // 10, 10), (AHEAD_BYTES, 4)])
def test_shards_are_brought_before_they_are_needed(size: int, ahead: int) -> None:
    """The more, the smaller they are."""
    bench = Bench(20, size=size)
    assert shards_ahead(bench.sizes) == ahead
    stream = bench.serve(requests(*([number] for number in range(20))))
    next(stream)
    wait_until(lambda: {*bench.ahead} >= set(range(1, ahead)))  # the first may be needed before a thread takes it
    assert max(bench.ahead) <= ahead + 1
    assert bench.shelved == {0}


def test_a_shard_stays_while_the_queue_needs_it() -> None:
    """Full shuffles: every request needs every shard, and each is brought once."""
    bench = Bench(8)
    for _ in bench.serve(requests(*[list(range(8))] * 50)):
        assert len(bench.shelved) == 8
    assert sorted(bench.ahead) == sorted({*bench.ahead})


def test_what_fits_is_never_let_go() -> None:
    """However small the requests: each shard is brought once, in three epochs of one sample at a time."""
    bench = Bench(30)
    list(bench.serve(requests(*([number] for number in [*range(30)] * 3))))
    assert (bench.put_count, bench.most) == (30, 30)


def test_no_more_shards_are_kept_than_a_process_may_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the cache has room for all of them. One at a time is let go of for another that is being brought."""
    (tmp_path / "limit").write_text(str(opening.RESERVE + 12))
    monkeypatch.setattr(opening, "MAP_LIMIT", tmp_path / "limit")
    bench = Bench(30)
    list(bench.serve(requests(*([number] for number in [*range(30)] * 2))))
    assert bench.most <= 12 and not bench.shelved


def test_of_a_larger_set_the_room_is_kept_and_no_more() -> None:
    """Those used last stay, within half of the room, and are not brought again."""
    bench = Bench(20, room=10)
    list(bench.serve(requests(*([number, number + 1] for number in range(19)), [18], [16])))
    assert bench.most <= 10 * WINDOW_FRACTION + 2
    assert bench.put_count == 20


def test_who_waits_for_room_gets_what_nobody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.read.prefetch.LOOK_S", 0.0)
    bench = Bench(20)
    stream = bench.serve(requests(*([number // 10] for number in range(200))))
    for _ in range(150):
        next(stream)
    assert len(bench.shelved) == 15
    bench.short = True
    next(stream)
    assert len(bench.shelved) <= 2


def test_room_is_given_back_before_more_is_waited_for() -> None:
    """Or users of one cache that keep what they do not need would wait for each other."""
    bench = Bench(20)
    stream = bench.serve(requests(*([number] for number in range(20))))
    for _ in range(15):
        next(stream)
    bench.full = True
    next(stream)
    assert bench.shelved == {15}


def test_an_error_is_raised_where_the_shard_is_needed() -> None:
    bench = Bench(6, broken=3)
    stream = bench.serve(requests(*([number] for number in range(6))))
    assert [int(next(stream)[0]) // SAMPLES for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StorageError, match="shard 3 cannot be read"):
        next(stream)
    assert not bench.shelved and not bench.held


def test_an_error_of_the_requests_is_passed_on() -> None:
    def broken() -> Iterator[Numbers]:
        yield np.array([0])
        raise OSError("no more")

    bench = Bench(2)
    with pytest.raises(OSError, match="no more"):
        list(bench.serve(broken()))
    assert not bench.shelved and not bench.held


def test_more_than_the_cache_holds_is_refused() -> None:
    with pytest.raises(InputError, match=r"a batch draws on 3 shards.*give --order windowed"):
        list(Bench(3, room=2).serve(requests([0, 1, 2])))


def test_giving_up_half_way_lets_go_of_all() -> None:
    before, bench = threading.active_count(), Bench(9)
    stream = bench.serve(requests(*([number] for number in range(9))))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not bench.shelved and not bench.held
    wait_until(lambda: threading.active_count() == before)


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
