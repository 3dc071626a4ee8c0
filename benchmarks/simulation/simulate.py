"""Simulate feeding by discrete events: bucket -> cache of a node -> gather -> host to device -> step of all ranks.

The simulation is pure: no files, no real clock. Shards are prefetched as by `shards.read.prefetch`, in the parts and
over the connections of `shards.store.download`, and used in the groups of `shards.order.windowed`: each node has its
own part of the shards, a lane, and group g of a lane mixes its shards g-window+1..g.
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf

from benchmarks.simulation.cases import Case, Outcome, Trouble
from benchmarks.simulation.events import Clock, Gate, Process, Server
from shards.format.compression import UNPACK_THREADS
from shards.format.layout import IMAGE_BYTES
from shards.order.sequential import Plan, cut

LABEL_BYTES = 8  # int64 on the device
IDLE = 0.05  # fraction of the time below which a stage cannot be the limit

# For each stage, the case in which it costs nothing.
STAGES: dict[str, Callable[[Case], Case]] = {
    "bucket": lambda case: _better(case, bucket=inf),
    "requests": lambda case: _better(case, request_s=0.0, connection=inf, connections=1 << 20),
    "network": lambda case: _better(case, network=inf),
    "disk": lambda case: _better(case, disk=inf),
    "cores": lambda case: _better(case, receive_s=0.0, unpack_s=0.0, gather_s=0.0),
    "host to device": lambda case: _better(case, link=inf),
    "GPU arithmetic": lambda case: _better(case, image_s=0.0),
    "kernel launches": lambda case: _better(case, least_s=0.0),
    "gradient exchange": lambda case: _better(case, exchange_s=0.0),
    "stragglers": lambda case: replace(case, trouble=Trouble()),
}


def gains(case: Case) -> dict[str, float]:
    """For each stage, the factor by which images/s would rise if it cost nothing. The largest shows the limit.

    Stages that are busy for less than IDLE of the time are left out.
    """
    base = simulate(case)
    better = {name: free(case) for name, free in STAGES.items() if base.busy.get(name, 1.0) >= IDLE}
    outcomes = {name: simulate(freed) for name, freed in better.items() if freed != case}
    return {name: outcome.steady_images_per_s / base.steady_images_per_s for name, outcome in outcomes.items()}


def simulate(case: Case) -> Outcome:
    """Simulate a case to the end of its last step."""
    return _World(case).outcome()


def _better(case: Case, **free: float) -> Case:
    return replace(case, hardware=replace(case.hardware, **free))  # type: ignore[arg-type]


class _Barrier:
    """The end of each step, for which all ranks wait."""

    def __init__(self, clock: Clock, ranks: int, exchange_s: float) -> None:
        self.ends: list[float] = []
        self._clock, self._ranks, self._exchange_s = clock, ranks, exchange_s
        self._arrived = 0
        self._step_over = Gate()

    def wait(self) -> Process:
        """Wait for all ranks, then for the exchange of gradients."""
        self._arrived += 1
        step = len(self.ends)
        if self._arrived == self._ranks:
            self._arrived = 0
            yield self._clock.now + self._exchange_s
            self.ends.append(self._clock.now)
            self._clock.open(self._step_over)
        while len(self.ends) == step:
            yield self._step_over


class _World:
    """The state that all nodes have in common: the clock, the bucket, the end of each step."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = Clock()
        self.bucket = Server()
        self.plan = Plan(samples=case.run.images, epochs=1, batch_size=case.run.batch)
        self.random = random.Random(case.trouble.seed)  # noqa: S311  (a simulation)
        self.ranks = case.hardware.nodes * case.hardware.ranks
        self.barrier = _Barrier(self.clock, self.ranks, case.hardware.exchange_s)
        self.requests = self.failed = 0
        self.nodes = [_Node(self, number) for number in range(case.hardware.nodes)]

    def outcome(self) -> Outcome:
        self.clock.run()
        if len(self.barrier.ends) != self.plan.steps:
            raise RuntimeError(f"stuck after {len(self.barrier.ends)} of {self.plan.steps} steps")
        ranks = [rank for node in self.nodes for rank in node.ranks]
        return Outcome(
            step_ends=tuple(self.barrier.ends),
            images=sum(rank.images for rank in ranks),
            batch=self.plan.batch_size,
            fetched_bytes=sum(node.fetched_bytes for node in self.nodes),
            requests=self.requests,
            failed=self.failed,
            cached_images=max(node.most_held for node in self.nodes) * self.case.run.shard,
            waited_s=sum(rank.waited_s for rank in ranks) / len(ranks),
            idle_s=sum(rank.idle_s for rank in ranks) / len(ranks),
            busy=self._busy(ranks),
        )

    def _busy(self, ranks: list["_Rank"]) -> dict[str, float]:
        servers = {
            "bucket": [self.bucket],
            "network": [node.network.server for node in self.nodes],
            "disk": [node.disk for node in self.nodes],
            "cores": [node.cores for node in self.nodes],
            "host to device": [rank.link for rank in ranks],
            "GPU": [rank.gpu for rank in ranks],
        }
        end = self.barrier.ends[-1]
        return {name: sum(server.utilisation(end) for server in kind) / len(kind) for name, kind in servers.items()}


class _Network:
    """The network of a node: its rate, and a number of connections that are free or in use."""

    def __init__(self, clock: Clock, connections: int) -> None:
        self.server = Server()
        self._clock, self._free = clock, connections
        self._released = Gate()

    def connect(self) -> Process:
        """Wait for a free connection."""
        while not self._free:
            yield self._released
        self._free -= 1

    def disconnect(self) -> None:
        self._free += 1
        self._clock.open(self._released)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lane:
    """The part of the shards that a node uses, in order."""

    shards: tuple[int, ...]
    """Images of each shard."""
    group_ends: tuple[int, ...]
    """Position in the sample stream of the node at which each group ends."""
    window: int
    """Shards that a group mixes."""

    def last_shard(self, position: int) -> int:
        """Number of the last shard in the group of a position."""
        return min(bisect_right(self.group_ends, position), len(self.shards) - 1)

    def first_shard(self, position: int) -> int:
        """Number of the first shard in the group of a position."""
        return max(0, bisect_right(self.group_ends, position) - self.window + 1)


class _Progress:
    """Which shards of a lane have arrived, are being fetched, and are needed. Shards have numbers in order of use."""

    def __init__(self, clock: Clock, shards: int, *, cached: bool) -> None:
        self.next = shards if cached else 0  # the next shard to fetch
        self._clock = clock
        self._arrived = [cached] * shards
        self._ready = self.next  # the first shard that has not arrived
        self._needed = -1  # the last shard that a rank needs
        self._shard_ready = Gate()
        self._shard_needed = Gate()

    def need(self, shard: int) -> Process:
        """Wait for all shards up to this one."""
        if shard > self._needed:
            self._needed = shard
            self._clock.open(self._shard_needed)
        while self._ready <= shard:
            yield self._shard_ready

    def wait_until_needed(self, shard: int, ahead: int) -> Process:
        """Wait until a shard is at most this far ahead of those in need."""
        while shard > self._needed + ahead:
            yield self._shard_needed

    def arrive(self, shard: int) -> None:
        self._arrived[shard] = True
        while self._ready < len(self._arrived) and self._arrived[self._ready]:
            self._ready += 1
        self._clock.open(self._shard_ready)


class _Node:
    """A node: fetches the shards of its lane, and has the ranks that use them."""

    def __init__(self, world: _World, number: int) -> None:
        self.world = world
        self.number = number
        hardware, run = world.case.hardware, world.case.run
        self.network = _Network(world.clock, hardware.connections)
        self.disk = Server()
        self.cores = Server(hardware.cores)
        images = sum(stop - start for start, stop in self.spans())
        shards = [min(run.shard, images - first) for first in range(0, images, run.shard)]
        self.lane = _Lane(shards=tuple(shards), group_ends=tuple(group_ends(shards, run.window)), window=run.window)
        self.fetched_bytes = 0.0
        self.most_held = 0  # most shards in the cache at once
        self._progress = _Progress(world.clock, len(shards), cached=run.cached)
        self.ranks = [_Rank(self, rank) for rank in range(hardware.ranks)]
        for _ in range(run.ahead):
            world.clock.start(self._fetch())

    def spans(self) -> Iterator[tuple[int, int]]:
        """The span of the sample stream that the node's ranks take in each step."""
        plan, ranks = self.world.plan, self.world.case.hardware.ranks
        first_rank = self.number * ranks
        last_rank = first_rank + ranks - 1
        for step in range(plan.steps):
            start, _ = plan.rank_span(step, first_rank, self.world.ranks)
            _, stop = plan.rank_span(step, last_rank, self.world.ranks)
            yield start, stop

    def need(self, position: int) -> Process:
        """Wait for all shards that the sample at this position of the lane may come from."""
        return self._progress.need(self.lane.last_shard(position))

    def compute(self, count: int, image_s: float, threads: int) -> float:
        """Queue work on this many images, divided among threads; returns the time at which it will be done."""
        pieces = (cut(0, count, part, threads) for part in range(threads))
        return max(self.cores.take(self.world.clock.now, (stop - start) * image_s) for start, stop in pieces)

    def _fetch(self) -> Process:
        """One of the prefetching threads: fetches one shard after another, as far ahead as the run allows."""
        progress = self._progress
        while progress.next < len(self.lane.shards):
            shard = progress.next
            progress.next += 1
            yield from progress.wait_until_needed(shard, self.world.case.run.ahead)
            in_use = self.lane.first_shard(min(rank.position for rank in self.ranks))
            self.most_held = max(self.most_held, shard + 1 - in_use)
            yield from self._download(shard)

    def _download(self, shard: int) -> Process:
        """Request the first part alone until its first byte, then all parts in parallel; then decompress."""
        clock, run = self.world.clock, self.world.case.run
        size = self.lane.shards[shard] * run.stored_bytes
        sizes = [min(run.part, size - first * run.part) for first in range(-int(-size // run.part))]
        yield from self._request()
        missing = [True] * len(sizes)
        part_arrived = Gate()
        for part, bytes_ in enumerate(sizes):
            clock.start(self._receive(part, bytes_, missing, part_arrived))
        while any(missing):
            yield part_arrived
        yield self.compute(self.lane.shards[shard], self.world.case.hardware.unpack_s, UNPACK_THREADS)
        self._progress.arrive(shard)

    def _request(self) -> Process:
        """Wait for the first byte of a request, which may fail and be repeated."""
        world, trouble = self.world, self.world.case.trouble
        world.requests += 1
        while world.random.random() < trouble.failures:
            world.failed += 1
            yield world.clock.now + world.case.hardware.request_s + trouble.retry_s
        yield world.clock.now + world.case.hardware.request_s

    def _receive(self, part: int, size: float, missing: list[bool], part_arrived: Gate) -> Process:
        """Receive one part over a connection into the cache. The first part has been requested already."""
        clock, hardware = self.world.clock, self.world.case.hardware
        yield from self.network.connect()
        if part:
            yield from self._request()
        over_connection = clock.now + size / hardware.connection
        yield self.world.bucket.take(clock.now, size / hardware.bucket)
        yield max(over_connection, self.network.server.take(clock.now, size / hardware.network))
        self.network.disconnect()
        yield self.cores.take(clock.now, size / self.world.case.run.stored_bytes * hardware.receive_s)
        yield self.disk.take(clock.now, size / hardware.disk)
        self.fetched_bytes += size
        missing[part] = False
        clock.open(part_arrived)


class _Queue:
    """The micro-batches that wait on a GPU, by their number of images."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock, self._most = clock, most
        self._sizes: deque[int] = deque()
        self._filled = Gate()
        self._has_room = Gate()

    def put(self, size: int) -> Process:
        """Add a micro-batch when there is room."""
        while len(self._sizes) >= self._most:
            yield self._has_room
        self._sizes.append(size)
        self._clock.open(self._filled)

    def wait(self) -> Process:
        """Wait until there is a micro-batch."""
        while not self._sizes:
            yield self._filled

    def take(self) -> int:
        """Remove the oldest micro-batch."""
        self._clock.open(self._has_room)
        return self._sizes.popleft()


class _Rank:
    """A GPU and the loader that feeds it."""

    def __init__(self, node: _Node, number: int) -> None:
        self.node = node
        self.number = node.number * node.world.case.hardware.ranks + number
        self.link = Server()
        self.gpu = Server()
        self.position = 0
        """Position in the lane before which this rank has gathered all its samples."""
        self.images = 0
        self.waited_s = 0.0
        self.idle_s = 0.0
        self._queue = _Queue(node.world.clock, node.world.case.run.prefetch)
        node.world.clock.start(self._feed())
        node.world.clock.start(self._train())

    def _feed(self) -> Process:
        """The loader: gathers micro-batches and copies them to the GPU, ahead of use."""
        clock, hardware, run = self.node.world.clock, self.node.world.case.hardware, self.node.world.case.run
        seen = 0  # samples of the lane in earlier steps
        for step, (first, last) in enumerate(self.node.spans()):
            for start, stop in self._micro_batches(step):
                count = stop - start
                end = seen + stop - first
                yield from self.node.need(end - 1)
                if run.cached:
                    yield self.node.disk.take(clock.now, count * run.stored_bytes / hardware.disk)
                yield self.node.compute(count, hardware.gather_s, run.threads)
                self.position = end
                yield self.link.take(clock.now, count * (IMAGE_BYTES + LABEL_BYTES) / hardware.link)
                yield from self._queue.put(count)
            seen += last - first
        self.position = seen

    def _train(self) -> Process:
        """The training loop: a step takes as long as its slowest rank."""
        world = self.node.world
        clock, trouble = world.clock, world.case.trouble
        slow, stalls = dict(trouble.slow).get(self.number, 1.0), self._stalls()
        for step in range(world.plan.steps):
            factor = slow * (1 + trouble.jitter * world.random.expovariate(1.0))
            yield clock.now + stalls.get(step, 0.0)
            for _ in self._micro_batches(step):
                yield from self._train_on_next(factor)
            ended = clock.now
            yield from world.barrier.wait()
            self.idle_s += clock.now - ended

    def _stalls(self) -> dict[int, float]:
        """Seconds that this rank pauses, for each step in which it does."""
        return {step: seconds for rank, step, seconds in self.node.world.case.trouble.stalls if rank == self.number}

    def _train_on_next(self, factor: float) -> Process:
        """Wait for a micro-batch, and train on it. factor: by which this rank is slower in this step."""
        clock, hardware = self.node.world.clock, self.node.world.case.hardware
        started = clock.now
        yield from self._queue.wait()
        self.waited_s += clock.now - started
        count = self._queue.take()
        yield self.gpu.take(clock.now, max(hardware.least_s, count * hardware.image_s) * factor)
        self.images += count

    def _micro_batches(self, step: int) -> Iterator[tuple[int, int]]:
        world = self.node.world
        start, stop = world.plan.rank_span(step, self.number, world.ranks)
        parts = -(-(stop - start) // world.case.run.micro)
        return (cut(start, stop, part, parts) for part in range(parts))


def group_ends(shards: list[int], window: int) -> list[int]:
    """Positions at which the groups of a lane end: part j of shard i is in group i + j (`shards.order.windowed`)."""
    window = max(1, min(window, len(shards)))
    sizes = [0] * (len(shards) + window - 1)
    for number, images in enumerate(shards):
        for part in range(window):
            start, stop = cut(0, images, part, window)
            sizes[number + part] += stop - start
    return list(accumulate(sizes))
