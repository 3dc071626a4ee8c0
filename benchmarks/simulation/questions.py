"""Questions to the simulation: what feeds eight GPUs, what limits many, the cost of an epoch by layout, of faults."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from math import ceil

from benchmarks.rows import Row
from benchmarks.simulation.cases import Case, Hardware, SimulatedRun, Trouble
from benchmarks.simulation.costs import LAYOUTS, Figure, Layout, Network, exchange_s, gpu_rates, hardware
from benchmarks.simulation.simulate import gains, simulate
from shards.format.layout import IMAGE_BYTES

Known = Mapping[str, Figure]
BATCH = 50_000
GPU_BATCH = 6_250
FED = 0.99  # fraction of the unlimited rate from which the GPUs count as fed
STEPS = 100  # enough that the bursts in which shards arrive even out
SLOW_NETWORK = 10e9 / 8  # 10 Gbit/s
# Least number of steps, for 1,024 GPUs. More steps (48 and 64; 12) changed the results by less than 1 %.
FEWEST = {"50,000 in all": 24, "6,250 a GPU": 10}


def needs(known: Known, networks: Sequence[Network], measured: Mapping[str, Figure]) -> list[Row]:
    """The least of each resource that feeds eight H100 at batch 50,000, while the other resources are unlimited."""
    return [
        {"network": network.name, "GPU": label, **_needs(known, network, rate.value)}
        for network in networks
        for label, rate in gpu_rates(network, measured).items()
    ]


def _needs(known: Known, network: Network, rate: float) -> Row:
    free = Hardware(nodes=1, ranks=8, image_s=1 / rate, exchange_s=exchange_s(network.parameters, 1, 8), cores=1 << 10)
    run = SimulatedRun(images=STEPS * BATCH, batch=BATCH, stored_bytes=known["plain"].value)
    fed = simulate(Case(hardware=free, run=run)).steady_images_per_s
    goal = FED * fed
    from_disk = replace(run, cached=True, stored_bytes=IMAGE_BYTES)

    def least(name: str, of: SimulatedRun) -> float:
        """The least rate in bytes/s; it cannot be below the mean demand."""
        demand = goal * of.stored_bytes / (8 if name == "link" else 1)
        return _least(lambda value: Case(hardware=_with(free, name, value), run=of), goal, demand)

    def cores(*costs: str) -> int:
        """The fewest cores that bear these costs of each image, shared out as threads of the ranks."""
        core_s = sum(known[cost].value for cost in costs)
        for number in count(max(1, ceil(goal * core_s))):
            busy = replace(free, cores=number, gather_s=core_s)
            threads = max(1, number // 8)
            if simulate(Case(hardware=busy, run=replace(from_disk, threads=threads))).steady_images_per_s >= goal:
                return number
        raise AssertionError("unreachable: with enough cores the goal is met")

    disk = least("disk", from_disk)
    return {
        "images/s": fed,
        "step, ms": BATCH / fed * 1e3,
        "network, Gbit/s": least("network", run) * 8e-9,
        "disk, MB/s": disk / 1e6,
        "disk, 4 KiB reads/s": disk / IMAGE_BYTES,
        "to each GPU, GB/s": least("link", from_disk) / 1e9,
        "cores, cached": cores("gather"),
        "cores, streaming": cores("gather", "receive"),
        "cores, augmenting too": cores("augment", "receive"),
        "shards ahead": _ahead(known, free, run, goal),
    }


def _with(hardware: Hardware, name: str, value: float) -> Hardware:
    return replace(hardware, **{name: value})  # type: ignore[arg-type]


def _ahead(known: Known, free: Hardware, run: SimulatedRun, goal: float) -> int | None:
    """The fewest shards to prefetch at the bucket's latency; None if 64 are not enough."""
    far = replace(free, request_s=known["request"].value, connection=known["connection"].value, connections=24 * 8)
    for ahead in range(1, 65):
        if simulate(Case(hardware=far, run=replace(run, ahead=ahead))).steady_images_per_s >= goal:
            return ahead
    return None


def _least(make: Callable[[float], Case], goal: float, demand: float) -> float:
    """The least value at which the goal is met, to 1 %: steps of a quarter upwards, then bisection."""
    low, high = 0.9 * demand, demand
    while simulate(make(high)).steady_images_per_s < goal:
        low, high = high, 1.25 * high
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if simulate(make(middle)).steady_images_per_s >= goal else (middle, high)
    return high


def breaks(known: Known, network: Network, measured: Mapping[str, Figure], gpus: Sequence[int]) -> list[Row]:
    """Streaming in the first epoch: the rate, and the two stages that would gain most if they cost nothing."""
    return [
        {"GPUs": number, "batch": batch, "GPU": label, **_breaks(known, network, rate.value, number, batch)}
        for number in gpus
        for batch in list(FEWEST)[: 1 if GPU_BATCH * number == BATCH else 2]  # on 8 GPUs both batches are the same
        for label, rate in gpu_rates(network, measured).items()
    ]


def _breaks(known: Known, network: Network, rate: float, gpus: int, batch: str) -> Row:
    images = BATCH if batch == "50,000 in all" else GPU_BATCH * gpus
    steps = max(FEWEST[batch], STEPS * 32 // max(gpus, 32))
    case = Case(
        hardware=hardware(known, gpus=gpus, rate=rate, parameters=network.parameters),
        run=SimulatedRun(images=steps * images, batch=images, stored_bytes=known["plain"].value, threads=2),
        trouble=Trouble(jitter=known["jitter"].value),
    )
    found = simulate(case).steady_images_per_s
    (first, gain), (second, next_gain), *_ = sorted(gains(case).items(), key=lambda item: -item[1])
    limits = {"first limit": first, "gain": gain, "second": second, "its gain": next_gain}
    return {"images/s": found, "of the GPUs": found / (gpus * rate), **limits}


def layouts(known: Known, network: Network, measured: Mapping[str, Figure]) -> list[Row]:
    """An epoch on eight H100, streamed, for each storage layout, at the network's rate and at 10 Gbit/s."""
    speeds = sorted({known["network"].value, SLOW_NETWORK})
    return [
        {
            "layout": name,
            "network, Gbit/s": speed * 8e-9,
            "GPU": label,
            **_layout(known, layout, network, rate.value, speed),
        }
        for name, layout in LAYOUTS.items()
        for speed in speeds
        for label, rate in gpu_rates(network, measured).items()
    ]


def _layout(known: Known, layout: Layout, network: Network, rate: float, speed: float) -> Row:
    images = known["images of an epoch"].value
    stored = known[layout.stored_bytes].value
    receive = known["receive"].value * stored / known["plain"].value  # proportional to the bytes
    unpack = known[layout.unpack].value if layout.unpack else 0.0
    base = hardware(known, gpus=8, rate=rate, parameters=network.parameters)
    case = Case(
        hardware=replace(base, network=speed, receive_s=receive, unpack_s=unpack, gather_s=known[layout.gather].value),
        run=SimulatedRun(images=STEPS * BATCH, batch=BATCH, stored_bytes=stored, threads=base.cores // 8),
    )
    run = replace(case.run, cached=True, stored_bytes=IMAGE_BYTES if layout.packed else stored)
    later = replace(case, run=run, hardware=replace(case.hardware, receive_s=0.0, unpack_s=0.0))
    outcome = simulate(case)
    ranked = sorted(gains(case).items(), key=lambda item: -item[1])
    seconds = images / outcome.steady_images_per_s
    core_s = images * (receive + unpack + known[layout.gather].value)
    return {
        "GB": images * stored / 1e9,
        "requests": ceil(outcome.requests / outcome.images * images),
        "core s": core_s,
        "first epoch, s": seconds,
        "of the GPUs": outcome.steady_images_per_s / (8 * rate),
        "first limit": ranked[0][0],
        "gain": ranked[0][1],
        "later epochs, s": images / simulate(later).steady_images_per_s,
        "GPU s, first epoch": 8 * seconds,
    }


TROUBLES = {
    "nothing": Trouble(),
    "1 in 20 requests fails, and takes 1 s more": Trouble(failures=0.05, retry_s=1.0),
    "each step of each GPU 2 % longer, at random": Trouble(jitter=0.02),
    "one GPU 10 % slower": Trouble(slow=((3, 1.1),)),
    f"one pause of 1 s in {STEPS} steps": Trouble(stalls=((3, STEPS // 2, 1.0),)),
}


def troubles(known: Known, network: Network, measured: Mapping[str, Figure]) -> list[Row]:
    """The effect of one fault at a time, on eight H100 that stream uncompressed shards."""
    return [
        {"GPU": label, "trouble": name, **_troubled(known, network, rate.value, trouble)}
        for label, rate in gpu_rates(network, measured).items()
        for name, trouble in TROUBLES.items()
    ]


def _troubled(known: Known, network: Network, rate: float, trouble: Trouble) -> Row:
    machine = hardware(known, gpus=8, rate=rate, parameters=network.parameters)
    run = SimulatedRun(images=STEPS * BATCH, batch=BATCH, stored_bytes=known["plain"].value, threads=2)
    found, well = (simulate(Case(hardware=machine, run=run, trouble=each)) for each in (trouble, Trouble()))
    return {
        f"{STEPS} steps, s": found.seconds,
        "times as long": found.seconds / well.seconds,
        "waits for data, s": found.waited_s,
        "waits for others, s": found.idle_s,
        "failed requests": found.failed,
    }
