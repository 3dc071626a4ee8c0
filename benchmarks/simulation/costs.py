"""What the simulation is told, each figure with its origin: measured here, published, assumed, or an ESTIMATE.

The GPU's step time is an ESTIMATE until somebody measures it, between two sides. Low: what EfficientNets reach on an
A100 according to its vendor (2021, with its input pipeline), carried over by multiply-adds and by the memory rates of
the two GPUs. High: what the H100's memory lets through, if every saved activation crosses it only as often as it must.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.measure import FULL
from benchmarks.rows import read_result
from benchmarks.simulation.cases import Hardware
from kkanji.models import create_model
from kkanji.training.meter import training_flops
from kkanji.training.micro_batch import saved_bytes_per_image
from shards import InputError

Origin = Literal["measured", "published", "assumed", "ESTIMATE"]
IMAGES = FULL["classes"] * FULL["images_of_a_class"]
FEED = "kkanji: gather, DALI, uint8 in torch"
POLICY = "kkanji: with the whole policy, uint8 in torch"
LOG = "docs/LOG.md, 2026-11-22, real shard"
NOTES = "kkanji's design notes, DALI 2.4.0, 2 cores"
AWS = "Amazon S3 performance guidelines and design patterns"
NVIDIA = "NVIDIA DeepLearningExamples, PyTorch EfficientNet, A100 80GB, mixed precision, one GPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number and where it is from."""

    value: float
    unit: str
    origin: Origin
    source: str


class Layout(NamedTuple):
    """A way to store images."""

    stored_bytes: str
    """Name of the figure: bytes of an image in the bucket."""
    unpack: str | None
    """Core seconds an image once an epoch, as it arrives; None for nothing to unpack."""
    gather: str
    """Core seconds an image to bring it into a batch."""
    packed: bool = True
    """Lies plain in the cache, whatever it was in the bucket."""


LAYOUTS = {
    "packed, plain": Layout("plain", None, "gather"),
    "packed, zstd": Layout("zstd", "unpack zstd", "gather"),
    "packed, LZ4": Layout("LZ4", "unpack LZ4", "gather"),
    "one PNG and .cls an image": Layout("PNG", None, "decode PNG", packed=False),
    "one raw member an image": Layout("raw member", None, "read raw member", packed=False),
}
# NVIDIA's images/s at the resolution of the paper (224 and 380 px), and its multiply-adds there (Tan and Le, table 2).
A100_B0, A100_B4 = 2_489 * 0.39e9, 331 * 4.2e9
A100_MEMORY, H100_MEMORY = 2_039e9, 3_350e9  # bytes/s, data sheets of the SXM versions
CROSSINGS = 5  # of a saved activation: written, read on and read again backward; its gradient written and read
GRADIENT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What a network asks of a GPU."""

    name: str
    multiply_adds: float
    """Of an image, forward."""
    saved_bytes: float
    """Activations that an image keeps for the backward pass, bfloat16."""
    parameters: int


def network(variant: str) -> Network:
    """Counted on kkanji's own EfficientNet. Raises InputError for a variant that there is not."""
    model = create_model(f"kkanji_efficientnet_{variant}", FULL["classes"])
    return Network(
        name=variant,
        multiply_adds=training_flops(model) / 6,
        saved_bytes=saved_bytes_per_image(model) / 2,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def gpu_rates(found: Network, measured: Mapping[str, float]) -> dict[str, Figure]:
    """Images/s of one H100: as measured, if it was, else the two estimates."""
    if found.name in measured:
        return {"measured": _figure(measured[found.name], "images/s", "measured", "--rates")}
    size = min(4, int(found.name[1:])) / 4 if found.name[1:].isdigit() else 0.0
    arithmetic = A100_B0 + size * (A100_B4 - A100_B0)
    low = arithmetic * H100_MEMORY / A100_MEMORY / found.multiply_adds
    high = H100_MEMORY / (CROSSINGS * found.saved_bytes)
    carried = f"{NVIDIA}: b0 2,489, b4 331 images/s; by multiply-adds (between b0 and b4 evenly), x 3.35/2.04 TB/s"
    return {
        "low": _figure(low, "images/s", "ESTIMATE", carried),
        "high": _figure(high, "images/s", "ESTIMATE", f"3.35 TB/s, {CROSSINGS} crossings of each saved activation"),
    }


def figures(results: Path, *, cores: int, network_gbit: float, disk_gb: float, latency_ms: float) -> dict[str, Figure]:
    """All inputs but the GPU's rate. results: the folder of loader.json, stream.json and prepare.json."""
    feed, policy = (_core_s(results / "loader.json", name) for name in (FEED, POLICY))
    receive = _core_s(results / "stream.json", "kkanji", latency_ms=0)
    here = "one core of the machine of this file"
    return {
        "images of an epoch": _figure(IMAGES, "images", "assumed", "3,832 classes, 10,000 draws of each"),
        "gather": _figure(feed, "core s", "measured", f"loader.json, {FEED}; {here}"),
        "augment": _figure(policy, "core s", "measured", f"loader.json, {POLICY}; {here}"),
        "receive": _figure(
            receive, "core s", "measured", "stream.json, kkanji, 0 ms; at most: the server took its part"
        ),
        "unpack zstd": _figure(1 / 220e3, "core s", "measured", NOTES),
        "unpack LZ4": _figure(1 / 530e3, "core s", "measured", NOTES),
        "decode PNG": _figure(2 / 29e3, "core s", "measured", f"{NOTES}: 26-32 k images/s on two"),
        "read raw member": _figure(2 / 220e3, "core s", "measured", f"{NOTES}: 0.22 M images/s on two"),
        "plain": _figure(_plain_bytes(results / "prepare.json"), "bytes", "measured", "prepare.json, tools balance"),
        "zstd": _figure(1_291, "bytes", "measured", f"{LOG}, level 9"),
        "LZ4": _figure(1_438, "bytes", "measured", f"{LOG}, level 6"),
        "PNG": _figure(1_493 + 1_400, "bytes", "measured", f"{LOG}; 1.4 kB of tar headers and padding"),
        "raw member": _figure(4_096 + 1_400, "bytes", "measured", "pixels; 1.4 kB of tar headers and padding"),
        "cores": _figure(cores, "cores", "published", "DGX H100 data sheet: two processors of 56 cores; --cores"),
        "network": _figure(network_gbit / 8 * 1e9, "bytes/s", "assumed", "of a node; --network-gbit"),
        "disk": _figure(disk_gb * 1e9, "bytes/s", "assumed", "of a node; --disk-gb"),
        "request": _figure(latency_ms / 1e3, "s", "published", f"{AWS}: 100-200 ms to the first byte; --latency-ms"),
        "connection": _figure(85e6, "bytes/s", "published", f"{AWS}: 85-90 MB/s a connection"),
        "bucket": _figure(5_500 * (8 << 20), "bytes/s", "published", f"{AWS}: 5,500 GET/s a prefix, of 8 MiB"),
        "link": _figure(50e9, "bytes/s", "assumed", "PCIe 5.0 x16, of 63 GB/s"),
        "least step": _figure(0.033, "s", "ESTIMATE", f"{NVIDIA}: 11 ms forward at batch 1; backward twice that"),
        "jitter": _figure(0.02, "of a step", "assumed", "mean of an exponential delay of each rank"),
    }


def hardware(known: Mapping[str, Figure], *, gpus: int, rate: float, parameters: int) -> Hardware:
    """Nodes of eight H100 that stream plain shards and augment on the GPU."""
    nodes, ranks = max(1, gpus // 8), min(gpus, 8)
    return Hardware(
        nodes=nodes,
        ranks=ranks,
        bucket=known["bucket"].value,
        network=known["network"].value,
        request_s=known["request"].value,
        connections=24 * ranks,  # shards.store.retry.MOST_CONNECTIONS of each process
        connection=known["connection"].value,
        disk=known["disk"].value,
        cores=int(known["cores"].value),
        receive_s=known["receive"].value,
        gather_s=known["gather"].value,
        link=known["link"].value,
        image_s=1 / rate,
        least_s=known["least step"].value,
        exchange_s=exchange_s(parameters, nodes, ranks),
    )


def exchange_s(parameters: int, nodes: int, ranks: int) -> float:
    """ESTIMATE: rings over NVLink (450 GB/s) and over 400 Gbit/s a GPU, 10 us a hop; nothing hidden behind the step."""
    size = parameters * GRADIENT_BYTES
    within = 2 * (ranks - 1) / ranks * size / 450e9 + 2 * (ranks - 1) * 10e-6
    between = 2 * (nodes - 1) / nodes * size / ranks / 50e9 + 2 * ceil(log2(nodes)) * 10e-6 if nodes > 1 else 0.0
    return within + between


def row(path: Path, name: str, **where: object) -> dict[str, Any]:
    """A measured row of a benchmark's JSON. Raises InputError where there is none."""
    wanted = {"name": name, **where}
    for found in read_result(path).get("rows", []):
        if wanted.items() <= found.items() and "median" in found:
            return dict(found)
    raise InputError(f"{path}: no measured row with {wanted}; run `python -m benchmarks {path.stem}` again")


def _core_s(path: Path, name: str, **where: object) -> float:
    """Core seconds an image, all threads of the measurement busy."""
    threads: float = read_result(path)["options"]["threads"]
    return threads / float(row(path, name, **where)["median"])


def _plain_bytes(path: Path) -> float:
    try:
        return float(read_result(path)["estimate"]["bytes"] / read_result(path)["estimate"]["images"])
    except KeyError as error:
        raise InputError(f"{path}: no {error}; run `python -m benchmarks prepare` again") from error


def _figure(value: float, unit: str, origin: Origin, source: str) -> Figure:
    return Figure(value=value, unit=unit, origin=origin, source=source)
