"""map_in_order: order whatever the speed of each call, bounded memory, and what becomes of the rest after an error."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kkanji.threads import Stopped, map_in_order


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as found:
        yield found


@pytest.mark.parametrize("ahead", [None, 0, 1, 4, 100])
def test_results_come_in_the_order_of_the_items(pool: ThreadPoolExecutor, ahead: int | None) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.01 * (10 - item))
        return item * item

    assert list(map_in_order(pool, slow_first, range(10), ahead=ahead)) == [item * item for item in range(10)]
    assert list(map_in_order(pool, slow_first, [], ahead=ahead)) == []


def test_few_items_are_taken_ahead_of_use(pool: ThreadPoolExecutor) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    for result in map_in_order(pool, int, items(), ahead=3):
        assert len(taken) <= result + 4


def test_an_error_stops_the_running_calls_and_starts_no_others() -> None:
    stop, begun, ended = threading.Event(), [], []

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            while 1 not in begun:
                time.sleep(0.001)
            raise ValueError("bad item")
        assert stop.wait(30)
        ended.append(item)
        raise Stopped

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ValueError, match="bad item"):
            list(map_in_order(pool, work, range(50), stop=stop))
        assert sorted(ended) == sorted(begun[1:])  # awaited: none is still at work
    assert len(begun) < 50


def test_closing_stops_the_running_calls() -> None:
    """As a consumer does that has seen enough."""
    stop = threading.Event()

    def work(item: int) -> int:
        if item:
            assert stop.wait(30)
        return item

    with ThreadPoolExecutor(2) as pool:
        results = map_in_order(pool, work, range(50), stop=stop)
        assert next(results) == 0
        results.close()
    assert stop.is_set()
