from collections.abc import Callable
from dataclasses import replace
from math import ceil, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.cases import Case, Hardware, Outcome, SimulatedRun, Trouble
from benchmarks.simulation.events import Clock, Gate, Process, Server
from benchmarks.simulation.simulate import gains, group_ends, simulate
from shards import WindowedOrder
from shards.format.layout import IMAGE_BYTES

RUN = SimulatedRun(images=4_000, batch=400, shard=250, part=1 << 18, window=2, stored_bytes=4_096)
BYTES = RUN.images * RUN.stored_bytes


def outcome(hardware: Hardware, run: SimulatedRun = RUN, **trouble: object) -> Outcome:
    return simulate(Case(hardware=hardware, run=run, trouble=Trouble(**trouble)))  # type: ignore[arg-type]


rate = st.one_of(st.just(inf), st.floats(1e6, 1e9))
cost = st.one_of(st.just(0.0), st.floats(1e-6, 1e-3))
hardwares = st.builds(
    Hardware,
    nodes=st.integers(1, 3),
    ranks=st.integers(1, 3),
    bucket=rate,
    network=rate,
    request_s=st.sampled_from([0.0, 0.02]),
    connections=st.integers(1, 5),
    connection=rate,
    disk=rate,
    cores=st.integers(1, 4),
    receive_s=cost,
    unpack_s=cost,
    gather_s=cost,
    link=rate,
    image_s=cost,
    least_s=st.sampled_from([0.0, 0.01]),
    exchange_s=st.sampled_from([0.0, 0.005]),
)
runs = st.builds(
    SimulatedRun,
    images=st.integers(1, 3_000),
    batch=st.integers(1, 700).filter(lambda batch: batch > 20),
    micro=st.integers(20, 400),
    shard=st.integers(50, 400),
    stored_bytes=st.sampled_from([1_291, 4_096]),
    part=st.integers(1 << 16, 1 << 20),
    window=st.integers(1, 9),
    ahead=st.integers(1, 5),
    prefetch=st.integers(1, 3),
    threads=st.integers(1, 3),
    cached=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(hardwares, runs, st.sampled_from([0.0, 0.3]))
def test_every_image_comes_once(hardware: Hardware, run: SimulatedRun, failures: float) -> None:
    """Trained on once, and its bytes fetched once, whatever fails and however the set is cut."""
    found = outcome(hardware, run, failures=failures, retry_s=0.05, jitter=0.1, slow=((0, 1.5),))
    assert found.images == run.images
    assert len(found.step_ends) == ceil(run.images / run.batch)
    assert list(found.step_ends) == sorted(found.step_ends)
    assert np.isclose(found.fetched_bytes, 0 if run.cached else run.images * run.stored_bytes)
    assert all(0 <= fraction <= 1 + 1e-9 for fraction in found.busy.values())
    assert (found.failed > 0) <= (failures > 0)


@pytest.mark.parametrize("ranks", [1, 4])
def test_without_limits_on_data_the_step_is_all(ranks: int) -> None:
    found = outcome(Hardware(ranks=ranks, image_s=0.001, exchange_s=0.25))
    assert found.seconds == pytest.approx(RUN.images * 0.001 / ranks + 10 * 0.25, rel=1e-12)
    assert found.waited_s == 0 and found.idle_s == pytest.approx(10 * 0.25)
    assert found.busy["GPU"] == pytest.approx(4 / ranks / found.seconds)


@pytest.mark.parametrize("stage", ["network", "disk", "bucket"])
def test_without_a_step_bytes_are_all(stage: str) -> None:
    found = outcome(Hardware(**{stage: 1e6}))  # type: ignore[arg-type]
    assert found.seconds == pytest.approx(BYTES / 1e6, rel=1e-12)
    assert found.busy[stage] == pytest.approx(1, rel=1e-12)
    assert found.waited_s == pytest.approx(found.seconds)


def test_without_a_step_cores_and_links_are_all() -> None:
    cached = replace(RUN, cached=True)
    assert outcome(Hardware(cores=4, gather_s=0.001), replace(cached, threads=4)).seconds == pytest.approx(1)
    assert outcome(Hardware(ranks=2, cores=2, gather_s=0.001), cached).seconds == pytest.approx(2)
    by_link = outcome(Hardware(ranks=2, link=1e6), cached)
    assert by_link.seconds == pytest.approx(RUN.images / 2 * (IMAGE_BYTES + 8) / 1e6)
    assert outcome(Hardware(disk=1e6), cached).seconds == pytest.approx(BYTES / 1e6)


def test_nodes_share_the_bucket_but_not_the_network() -> None:
    assert outcome(Hardware(nodes=4, bucket=1e6)).seconds == pytest.approx(BYTES / 1e6)
    assert outcome(Hardware(nodes=4, network=1e6)).seconds == pytest.approx(BYTES / 4e6)


def test_latency_is_hidden_by_what_is_under_way() -> None:
    """Shards of one request, 0.1 s each, four at a time: 16 take 0.4 s. Of two requests, one after the other, 0.8 s."""
    one = replace(RUN, part=1 << 40, window=1, ahead=4)
    assert outcome(Hardware(request_s=0.1, connections=99), one).seconds == pytest.approx(0.4)
    assert outcome(Hardware(request_s=0.1, connections=99), replace(one, part=1 << 19)).seconds == pytest.approx(0.8)
    few = outcome(Hardware(request_s=0.1), replace(one, ahead=1)).seconds
    assert few == pytest.approx(1.6)


def test_a_connection_has_its_own_rate() -> None:
    whole = replace(RUN, part=1 << 40, window=1)
    assert outcome(Hardware(connection=1e6, connections=2), whole).seconds == pytest.approx(BYTES / 2e6)


def test_a_step_is_as_long_as_its_slowest_rank() -> None:
    even = Hardware(ranks=4, image_s=0.001)
    assert outcome(even, slow=((2, 1.5),)).seconds == pytest.approx(1.5)
    stalled = outcome(even, stalls=((0, 3, 0.5), (1, 3, 0.4), (3, 7, 0.25)))
    assert stalled.seconds == pytest.approx(1 + 0.5 + 0.25)
    assert stalled.idle_s == pytest.approx((0.5 * 3 - 0.4 + 0.25 * 3) / 4)


def test_jitter_costs_what_the_largest_of_many_is() -> None:
    """The mean of the largest of n exponential variables is the n-th harmonic number."""
    hardware, long = Hardware(ranks=8, image_s=1.0), replace(RUN, images=8 * 4_000, batch=8, cached=True)
    passed = outcome(hardware, long, jitter=0.1).seconds / 4_000
    assert passed == pytest.approx(1 + 0.1 * sum(1 / n for n in range(1, 9)), rel=0.01)


def test_failed_requests_wait_and_are_made_again() -> None:
    run = replace(RUN, images=250 * 4_000, shard=250, part=1 << 40, window=1, ahead=1)
    found = outcome(Hardware(request_s=0.1), run, failures=0.2, retry_s=0.4)
    assert found.requests == 4_000
    assert found.failed == pytest.approx(4_000 * 0.2 / 0.8, rel=0.1)
    assert found.seconds == pytest.approx(4_000 * 0.1 + found.failed * 0.5)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_batches_are_ready_up_to_the_prefetch_and_one_in_hand(prefetch: int) -> None:
    """Ten batches of 0.1 s each, and a first step that begins late: those that waited need no time any more."""
    run = replace(RUN, cached=True, prefetch=prefetch)
    found = outcome(Hardware(gather_s=0.1 / 400), run, stalls=((0, 0, 10.0),))
    assert found.seconds == pytest.approx(10 + 0.1 * (10 - prefetch - 1))


def test_small_micro_batches_take_the_least_time() -> None:
    hardware = Hardware(image_s=0.001, least_s=0.3)
    assert outcome(hardware).seconds == pytest.approx(10 * 0.4)
    assert outcome(hardware, replace(RUN, micro=200)).seconds == pytest.approx(10 * 2 * 0.3)


BETTER: list[Callable[[Hardware], Hardware]] = [
    lambda it: replace(it, bucket=2 * it.bucket),
    lambda it: replace(it, network=2 * it.network),
    lambda it: replace(it, disk=2 * it.disk),
    lambda it: replace(it, link=2 * it.link),
    lambda it: replace(it, image_s=it.image_s / 2),
    lambda it: replace(it, gather_s=it.gather_s / 2),
    lambda it: replace(it, exchange_s=it.exchange_s / 2),
]


@settings(max_examples=40, deadline=None)
@given(hardwares, runs, st.sampled_from(BETTER))
def test_better_hardware_is_not_slower(
    hardware: Hardware, run: SimulatedRun, better: Callable[[Hardware], Hardware]
) -> None:
    """One node: with several, an earlier request of one can be served before an urgent one of another."""
    single = replace(hardware, nodes=1, connections=99)
    before, after = outcome(single, run).seconds, outcome(better(single), run).seconds
    assert after <= before * 1.05 + 1e-9, "more than an order of service can explain"


def test_the_limit_is_what_gains_most() -> None:
    hardware = Hardware(network=8e6, request_s=0.001, gather_s=1e-4, image_s=1e-4)
    found = gains(Case(hardware=hardware, run=RUN))
    assert max(found, key=lambda name: found[name]) == "network" and found["network"] > 3
    assert "bucket" not in found, "what costs nothing already is not asked about"
    slow = gains(Case(hardware=replace(hardware, network=inf), run=RUN, trouble=Trouble(slow=((0, 2.0),))))
    assert slow["stragglers"] > 1.2 and slow["GPU arithmetic"] > 1.2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.just(100), min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_groups_are_those_of_the_real_order(sizes: list[int], window: int, data: st.DataObject) -> None:
    """No position needs a shard that the simulation would not have waited for."""
    ends = group_ends(sizes, window)
    assert ends[-1] == sum(sizes)
    order = WindowedOrder(sizes, seed=data.draw(st.integers(0, 99)), window=window)
    row = [int(number) // 100 for number in order.at(0, order.samples)]
    first_seen = list(dict.fromkeys(row))
    for group, end in enumerate(ends):
        assert len(set(row[:end])) <= group + 1
    assert sorted(first_seen) == list(range(len(sizes)))


def test_cache_holds_the_window_and_what_is_ahead() -> None:
    found = outcome(Hardware(request_s=0.01, image_s=0.01), replace(RUN, batch=100, window=3, ahead=4))
    assert (3 + 4) * 250 <= found.cached_images <= (3 + 4 + 1) * 250


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 of each"):
        replace(RUN, ahead=0)
    with pytest.raises(ValueError, match="otherwise no request succeeds"):
        Trouble(failures=1.0)


def test_events_come_in_the_order_of_their_times() -> None:
    clock, gate, seen = Clock(), Gate(), list[tuple[str, float]]()

    def sleeper(name: str, until: float) -> Process:
        yield until
        seen.append((name, clock.now))
        clock.open(gate)

    def waiter() -> Process:
        while len(seen) < 2:
            yield gate
        seen.append(("waiter", clock.now))

    for process in (waiter(), sleeper("late", 2.0), sleeper("soon", 1.0)):
        clock.start(process)
    clock.run()
    assert seen == [("soon", 1.0), ("late", 2.0), ("waiter", 2.0)]


def test_a_server_takes_jobs_in_turn() -> None:
    server = Server(workers=2)
    assert [server.take(0.0, 1.0) for _ in range(4)] == [1.0, 1.0, 2.0, 2.0]
    assert server.take(5.0, 1.0) == 6.0
    assert server.utilisation(10.0) == pytest.approx(5 / 20)
