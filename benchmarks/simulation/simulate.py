"""Feeding as a discrete-event simulation: bucket -> node's cache -> host gather -> host to device -> step, all ranks.

Pure: no files, no real clock. Shards come as `shards.read.prefetch` brings them, in the parts and over the connections
of `shards.store.download`, and are used in the groups of `shards.order.windowed`: each node reads the shards of a lane
of its own, and group g mixes the shards g-window+1..g.
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from math import inf

from benchmarks.simulation.cases import Case, Outcome, Trouble
from benchmarks.simulation.events import Clock, Gate, Process, Server
from shards.format.compression import UNPACK_THREADS
from shards.format.layout import IMAGE_BYTES
from shards.order.sequential import Plan, cut

LABEL_BYTES = 8  # int64 on the device
IDLE = 0.05

# What each stage looks like when it costs nothing.
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
    """Images/s, as a multiple, if one stage cost nothing and all others what they do: the greatest is the limit.

    Stages that work in less than IDLE of the time are not asked about.
    """
    base = simulate(case)
    wanted = {name: free(case) for name, free in STAGES.items() if base.busy.get(name, 1.0) >= IDLE}
    freed = {name: simulate(better) for name, better in wanted.items() if better != case}
    return {name: outcome.steady_images_per_s / base.steady_images_per_s for name, outcome in freed.items()}


def simulate(case: Case) -> Outcome:
    """Run it to the end of its last step."""
    return _World(case).outcome()


def _better(case: Case, **free: float) -> Case:
    return replace(case, hardware=replace(case.hardware, **free))  # type: ignore[arg-type]


class _World:
    """What all nodes share: the clock, the bucket, the end of each step."""

    def __init__(self, case: Case) -> None:
        self.case, self.clock, self.bucket = case, Clock(), Server()
        self.plan = Plan(samples=case.run.images, epochs=1, batch_size=case.run.batch)
        self.random = random.Random(case.trouble.seed)  # noqa: S311  (a simulation)
        self.slow = dict(case.trouble.slow)
        self.stalls = {(rank, step): seconds for rank, step, seconds in case.trouble.stalls}
        self.ranks = case.hardware.nodes * case.hardware.ranks
        self.step_ends: list[float] = []
        self.requests = self.failed = 0
        self._at_end, self._step_over = 0, Gate()
        self.nodes = [_Node(self, number) for number in range(case.hardware.nodes)]

    def end_step(self) -> Process:
        """Wait for all ranks, then for the exchange of gradients."""
        self._at_end += 1
        step = len(self.step_ends)
        if self._at_end == self.ranks:
            self._at_end = 0
            yield self.clock.now + self.case.hardware.exchange_s
            self.step_ends.append(self.clock.now)
            self.clock.open(self._step_over)
        while len(self.step_ends) == step:
            yield self._step_over

    def outcome(self) -> Outcome:
        self.clock.run()
        if len(self.step_ends) != self.plan.steps:
            raise RuntimeError(f"stuck after {len(self.step_ends)} of {self.plan.steps} steps")
        ranks = [rank for node in self.nodes for rank in node.ranks]
        return Outcome(
            step_ends=tuple(self.step_ends),
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
            "network": [node.network for node in self.nodes],
            "disk": [node.disk for node in self.nodes],
            "cores": [node.cores for node in self.nodes],
            "host to device": [rank.link for rank in ranks],
            "GPU": [rank.gpu for rank in ranks],
        }
        end = self.step_ends[-1]
        return {name: sum(server.utilisation(end) for server in kind) / len(kind) for name, kind in servers.items()}


class _Node:
    """A lane's shards on their way, and the ranks that use them."""

    def __init__(self, world: _World, number: int) -> None:
        self.world, self.number, hardware, run = world, number, world.case.hardware, world.case.run
        self.network, self.disk, self.cores = Server(), Server(), Server(hardware.cores)
        self.shares = list(self._shares())
        images = sum(stop - start for start, stop in self.shares)
        self.shards = [min(run.shard, images - first) for first in range(0, images, run.shard)]
        self.group_ends = _group_ends(self.shards, run.window)
        self.fetched_bytes, self.most_held = 0.0, 0
        self._arrived = [run.cached] * len(self.shards)
        self._ready = len(self.shards) if run.cached else 0  # the shards before this one are all there
        self._next, self._wanted, self._connections = self._ready, -1, hardware.connections
        self._brought, self._asked, self._connected = Gate(), Gate(), Gate()
        self.ranks = [_Rank(self, rank) for rank in range(hardware.ranks)]
        for _ in range(run.ahead):
            world.clock.start(self._fetch())

    def _shares(self) -> Iterator[tuple[int, int]]:
        """The stretch of the stream that is the node's part of each step."""
        world, ranks = self.world, self.world.case.hardware.ranks
        for step in range(world.plan.steps):
            start, _ = world.plan.rank_span(step, self.number * ranks, world.ranks)
            yield start, world.plan.rank_span(step, self.number * ranks + ranks - 1, world.ranks)[1]

    def need(self, position: int) -> Process:
        """Wait for the shards that the lane's sample at this position may come from."""
        shard = self.last_shard(position)
        if shard > self._wanted:
            self._wanted = shard
            self.world.clock.open(self._asked)
        while self._ready <= shard:
            yield self._brought

    def last_shard(self, position: int) -> int:
        """The last shard that a position's group mixes."""
        return min(bisect_right(self.group_ends, position), len(self.shards) - 1)

    def compute(self, count: int, image_s: float, threads: int) -> float:
        """Work on so many images, cut for threads; when it will be done."""
        pieces = (cut(0, count, part, threads) for part in range(threads))
        return max(self.cores.take(self.world.clock.now, (stop - start) * image_s) for start, stop in pieces)

    def _fetch(self) -> Process:
        """One of those who bring shards."""
        while self._next < len(self.shards):
            shard, self._next = self._next, self._next + 1
            while shard > self._wanted + self.world.case.run.ahead:
                yield self._asked
            self.most_held = max(self.most_held, shard + 1 - self._first_in_use())
            yield from self._bring(shard)

    def _first_in_use(self) -> int:
        position = min(rank.position for rank in self.ranks)
        return max(0, bisect_right(self.group_ends, position) - self.world.case.run.window + 1)

    def _bring(self, shard: int) -> Process:
        """The first request alone until its answer begins, then the others beside it."""
        clock, run = self.world.clock, self.world.case.run
        size = self.shards[shard] * run.stored_bytes
        sizes = [min(run.part, size - first * run.part) for first in range(-int(-size // run.part))]
        yield from self._ask()
        missing, arrived = [True] * len(sizes), Gate()
        for part, bytes_ in enumerate(sizes):
            clock.start(self._receive(part, bytes_, missing, arrived))
        while any(missing):
            yield arrived
        yield self.compute(self.shards[shard], self.world.case.hardware.unpack_s, UNPACK_THREADS)
        self._arrived[shard] = True
        while self._ready < len(self.shards) and self._arrived[self._ready]:
            self._ready += 1
        clock.open(self._brought)

    def _ask(self) -> Process:
        """Until a request's first byte."""
        world, trouble = self.world, self.world.case.trouble
        world.requests += 1
        while world.random.random() < trouble.failures:
            world.failed += 1
            yield world.clock.now + world.case.hardware.request_s + trouble.retry_s
        yield world.clock.now + world.case.hardware.request_s

    def _receive(self, part: int, size: float, missing: list[bool], arrived: Gate) -> Process:
        """One part, over a connection, into the cache. The first one is asked for already."""
        clock, hardware = self.world.clock, self.world.case.hardware
        while not self._connections:
            yield self._connected
        self._connections -= 1
        if part:
            yield from self._ask()
        slowest = clock.now + size / hardware.connection
        yield self.world.bucket.take(clock.now, size / hardware.bucket)
        yield max(slowest, self.network.take(clock.now, size / hardware.network))
        self._connections += 1
        clock.open(self._connected)
        yield self.cores.take(clock.now, size / self.world.case.run.stored_bytes * hardware.receive_s)
        yield self.disk.take(clock.now, size / hardware.disk)
        self.fetched_bytes += size
        missing[part] = False
        clock.open(arrived)


class _Rank:
    """A GPU and the loader that feeds it."""

    def __init__(self, node: _Node, number: int) -> None:
        self.node, self.number = node, node.number * node.world.case.hardware.ranks + number
        self.link, self.gpu = Server(), Server()
        self.position = 0
        """Of the lane, before which this rank has gathered what it needs."""
        self.images, self.waited_s, self.idle_s = 0, 0.0, 0.0
        self._queue: deque[int] = deque()
        self._filled, self._room = Gate(), Gate()
        node.world.clock.start(self._feed())
        node.world.clock.start(self._train())

    def _feed(self) -> Process:
        """Micro-batches, ahead of use."""
        clock, hardware, run = self.node.world.clock, self.node.world.case.hardware, self.node.world.case.run
        seen = 0  # of the lane, in earlier steps
        for step, (first, last) in enumerate(self.node.shares):
            for start, stop in self._micro_batches(step):
                count, end = stop - start, seen + stop - first
                yield from self.node.need(end - 1)
                if run.cached:
                    yield self.node.disk.take(clock.now, count * run.stored_bytes / hardware.disk)
                yield self.node.compute(count, hardware.gather_s, run.threads)
                self.position = end
                yield self.link.take(clock.now, count * (IMAGE_BYTES + LABEL_BYTES) / hardware.link)
                while len(self._queue) >= run.prefetch:
                    yield self._room
                self._queue.append(count)
                clock.open(self._filled)
            seen += last - first
        self.position = seen

    def _train(self) -> Process:
        """Steps, each as long as its slowest rank takes."""
        world = self.node.world
        clock, trouble = world.clock, world.case.trouble
        for step in range(world.plan.steps):
            factor = world.slow.get(self.number, 1.0) * (1 + trouble.jitter * world.random.expovariate(1.0))
            yield clock.now + world.stalls.get((self.number, step), 0.0)
            for _ in self._micro_batches(step):
                yield from self._take(factor)
            ended = clock.now
            yield from world.end_step()
            self.idle_s += clock.now - ended

    def _take(self, factor: float) -> Process:
        """A micro-batch, waited for and trained on."""
        clock, hardware = self.node.world.clock, self.node.world.case.hardware
        asked = clock.now
        while not self._queue:
            yield self._filled
        self.waited_s += clock.now - asked
        count = self._queue.popleft()
        clock.open(self._room)
        yield self.gpu.take(clock.now, max(hardware.least_s, count * hardware.image_s) * factor)
        self.images += count

    def _micro_batches(self, step: int) -> Iterator[tuple[int, int]]:
        world = self.node.world
        start, stop = world.plan.rank_span(step, self.number, world.ranks)
        parts = -(-(stop - start) // world.case.run.micro)
        return (cut(start, stop, part, parts) for part in range(parts))


def _group_ends(shards: list[int], window: int) -> list[int]:
    """Where the groups of a lane end: part j of shard i goes to group i + j, as in `shards.order.windowed`."""
    window = max(1, min(window, len(shards)))
    sizes = [0] * (len(shards) + window - 1)
    for number, images in enumerate(shards):
        for part in range(window):
            start, stop = cut(0, images, part, window)
            sizes[number + part] += stop - start
    return list(accumulate(sizes))
