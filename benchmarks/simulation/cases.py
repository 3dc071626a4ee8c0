"""What is simulated: the hardware, the run, what goes wrong; and what came of it."""

from dataclasses import dataclass, field
from math import inf

from shards.format.layout import IMAGE_BYTES
from shards.read.prefetch import shards_ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What there is. Rates are in bytes/s, times in seconds; a rate of `inf` and a time of 0 take a stage away."""

    nodes: int = 1
    ranks: int = 1
    """GPUs of a node."""
    bucket: float = inf
    """Rate of the bucket, for all nodes together."""
    network: float = inf
    """Rate at which a node receives."""
    request_s: float = 0.0
    """From asking for a part of a shard to its first byte."""
    connections: int = 24
    """Of a node, at once."""
    connection: float = inf
    """Rate of one connection."""
    disk: float = inf
    """Rate of a node's disk: shards are written to it as they come, or images are read from it."""
    cores: int = 1
    """Of a node, for receiving, unpacking and gathering."""
    receive_s: float = 0.0
    """Core time to receive and verify an image, once an epoch; the parts of a shard at the same time."""
    unpack_s: float = 0.0
    """Core time to unpack an image once its shard is there."""
    gather_s: float = 0.0
    """Core time to bring an image into a batch: gathered, decoded, augmented."""
    link: float = inf
    """Rate from the host to one GPU."""
    image_s: float = 0.0
    """GPU time to train on an image."""
    least_s: float = 0.0
    """GPU time of a micro-batch at least, however small it is."""
    exchange_s: float = 0.0
    """To sum the gradients of all ranks, once a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What is done with it."""

    images: int
    batch: int
    """Images of a step over all ranks."""
    micro: int = 1 << 62
    """Images that a GPU takes at once, at most."""
    shard: int = 25_000
    """Images of a shard."""
    stored_bytes: float = IMAGE_BYTES
    """Bytes of an image in the bucket."""
    part: float = 8 << 20
    """Bytes of a request."""
    window: int = 8
    """Shards that are mixed at a time."""
    ahead: int = shards_ahead([25_000 * IMAGE_BYTES])
    """Shards under way or ready beyond those in use."""
    prefetch: int = 2
    """Micro-batches that wait on a GPU."""
    threads: int = 1
    """Cores that a rank gathers a micro-batch with."""
    cached: bool = False
    """Whether the node's disk has all shards from the start."""

    def __post_init__(self) -> None:
        least = min(self.images, self.batch, self.micro, self.shard, self.window, self.ahead, self.prefetch)
        if least < 1 or self.threads < 1 or self.part <= 0:
            raise ValueError(f"{self}; expected at least 1 of each")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """What goes wrong. Random numbers follow from the seed."""

    failures: float = 0.0
    """Share of requests that fail."""
    retry_s: float = 0.0
    """From such a failure to the next try."""
    jitter: float = 0.0
    """Each rank's step takes 1 + jitter x (an exponential variable of mean 1) times as long."""
    slow: tuple[tuple[int, float], ...] = ()
    """(rank, factor): it always takes so many times as long for its steps."""
    stalls: tuple[tuple[int, int, float], ...] = ()
    """(rank, step, seconds): a pause before its first micro-batch of that step."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.failures < 1:
            raise ValueError(f"failures={self.failures}; expected at least 0 and less than 1: else nothing ever comes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A simulation to be run."""

    hardware: Hardware
    run: Run
    trouble: Trouble = field(default_factory=Trouble)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it."""

    step_ends: tuple[float, ...]
    """Seconds from the start, one for each step."""
    images: int
    """Trained on."""
    batch: int
    fetched_bytes: float
    requests: int
    failed: int
    """Requests that failed and were made again."""
    cached_images: int
    """That a node's cache held at most, in shards under way, ready and in use."""
    waited_s: float
    """For data, the mean of the ranks."""
    idle_s: float
    """For other ranks and for the exchange, the mean of the ranks."""
    busy: dict[str, float]
    """Share of the time in which each stage worked; of several of a kind the mean."""

    @property
    def seconds(self) -> float:
        """From the start to the last step's end."""
        return self.step_ends[-1]

    @property
    def images_per_s(self) -> float:
        """Over all, the first wait included."""
        return self.images / self.seconds if self.seconds else inf

    @property
    def steady_images_per_s(self) -> float:
        """Of the middle half of the steps: queues have filled, and shards still come."""
        ends = (0.0, *self.step_ends[: max(1, self.images // self.batch)])
        first, last = len(ends) // 4, -(-3 * len(ends) // 4)
        passed = ends[last] - ends[first]
        return (last - first) * self.batch / passed if passed else inf
