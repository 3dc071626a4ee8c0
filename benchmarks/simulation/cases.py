"""Inputs and outputs of the simulation: hardware, run and faults; outcome."""

from dataclasses import dataclass, field
from math import inf

from shards.format.layout import IMAGE_BYTES
from shards.read.prefetch import shards_ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """Nodes, GPUs and the rates of all stages.

    Rates are in bytes/s, times in seconds. The defaults, a rate of `inf` or a time of 0, remove a stage.
    """

    nodes: int = 1
    """Number of nodes; 1 by default."""
    ranks: int = 1
    """GPUs of each node; 1 by default."""
    bucket: float = inf
    """Rate of the bucket for all nodes together."""
    network: float = inf
    """Rate at which a node receives."""
    request_s: float = 0.0
    """Time from a request for a part of a shard to its first byte."""
    connections: int = 24
    """Connections that a node has at once; 24 by default."""
    connection: float = inf
    """Rate of one connection."""
    disk: float = inf
    """Rate of a node's disk, which shards are written to on arrival, or cached images are read from."""
    cores: int = 1
    """Cores of a node that receive, decompress and gather; 1 by default."""
    receive_s: float = 0.0
    """Core time to receive and verify an image, once an epoch. The parts of a shard are received in parallel."""
    unpack_s: float = 0.0
    """Core time to decompress an image after its shard has arrived."""
    gather_s: float = 0.0
    """Core time to put an image into a batch: gather, decode, augment."""
    link: float = inf
    """Rate from the host to one GPU."""
    image_s: float = 0.0
    """GPU time to train on an image."""
    least_s: float = 0.0
    """Least GPU time of a micro-batch, however small it is."""
    exchange_s: float = 0.0
    """Time to sum the gradients of all ranks, once a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRun:
    """One epoch of training on that hardware."""

    images: int
    """Images of the epoch."""
    batch: int
    """Images of a step over all ranks."""
    micro: int = 1 << 62
    """Most images of a micro-batch; unlimited by default."""
    shard: int = 25_000
    """Images of a shard; 25,000 by default."""
    stored_bytes: float = IMAGE_BYTES
    """Bytes of an image in the bucket; uncompressed by default."""
    part: float = 8 << 20
    """Bytes of a request; 8 MiB by default."""
    window: int = 8
    """Shards that are shuffled together; 8 by default."""
    ahead: int = shards_ahead([25_000 * IMAGE_BYTES])
    """Shards that are prefetched beyond those in use; by default as many as the reader prefetches."""
    prefetch: int = 2
    """Micro-batches that wait on a GPU; 2 by default."""
    threads: int = 1
    """Cores that a rank gathers a micro-batch with; 1 by default."""
    cached: bool = False
    """Whether the node's disk has all shards from the start; false by default."""

    def __post_init__(self) -> None:
        least = min(self.images, self.batch, self.micro, self.shard, self.window, self.ahead, self.prefetch)
        if least < 1 or self.threads < 1 or self.part <= 0:
            raise ValueError(f"{self}; expected at least 1 of each")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Faults: failing requests, slow ranks, pauses. None by default."""

    failures: float = 0.0
    """Fraction of requests that fail, below 1."""
    retry_s: float = 0.0
    """Time from a failure to the next attempt."""
    jitter: float = 0.0
    """Random delay of each rank's step: it takes 1 + jitter x (an exponential variable of mean 1) times as long."""
    slow: tuple[tuple[int, float], ...] = ()
    """Slow ranks as (rank, factor): each of their steps takes `factor` times as long."""
    stalls: tuple[tuple[int, int, float], ...] = ()
    """Pauses as (rank, step, seconds), before the rank's first micro-batch of that step."""
    seed: int = 0
    """Seed of the random failures and delays; 0 by default."""

    def __post_init__(self) -> None:
        if not 0 <= self.failures < 1:
            raise ValueError(
                f"failures={self.failures}; expected 0 or more, and below 1: otherwise no request succeeds"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Everything that a simulation needs."""

    hardware: Hardware
    """Nodes and rates."""
    run: SimulatedRun
    """The epoch to simulate."""
    trouble: Trouble = field(default_factory=Trouble)
    """Faults; none by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a simulation."""

    step_ends: tuple[float, ...]
    """Time from the start to the end of each step, in seconds."""
    images: int
    """Images trained on."""
    batch: int
    """Images of a step over all ranks."""
    fetched_bytes: float
    """Bytes fetched from the bucket by all nodes."""
    requests: int
    """Successful requests."""
    failed: int
    """Requests that failed and were repeated."""
    cached_images: int
    """Most images that a node's cache held, in shards in progress, ready and in use."""
    waited_s: float
    """Seconds that a rank waited for data, mean over the ranks."""
    idle_s: float
    """Seconds that a rank waited for other ranks and for the exchange of gradients, mean over the ranks."""
    busy: dict[str, float]
    """Fraction of the time in which each stage worked, mean over its servers."""

    @property
    def seconds(self) -> float:
        """Seconds from the start to the end of the last step."""
        return self.step_ends[-1]

    @property
    def images_per_s(self) -> float:
        """Images/s over the whole epoch, including the first wait."""
        return self.images / self.seconds if self.seconds else inf

    @property
    def steady_images_per_s(self) -> float:
        """Images/s in the middle half of the steps, when queues are full and shards still arrive."""
        ends = (0.0, *self.step_ends[: max(1, self.images // self.batch)])
        first = len(ends) // 4
        last = -(-3 * len(ends) // 4)
        passed = ends[last] - ends[first]
        return (last - first) * self.batch / passed if passed else inf
