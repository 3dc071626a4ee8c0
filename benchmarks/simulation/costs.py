"""Inputs of the simulation, each with its origin: measured here, published, assumed, or an ESTIMATE.

The step times of a GPU are those of `python -m benchmarks gpu`. Until somebody runs it, they are an ESTIMATE with two
bounds. Low: the rate that NVIDIA published for EfficientNets on an A100 (2021, including its input pipeline), scaled by
multiply-adds and by the memory rates of the two GPUs. High: the rate that the memory of an H100 allows, if every saved
activation crosses it as seldom as possible.
"""

from collections.abc import Iterator, Mapping
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
FAMILY = "kkanji_efficientnet_"
IMAGES = FULL["classes"] * FULL["images_of_a_class"]
FEED = "kkanji: gather, DALI, uint8 in torch"
POLICY = "kkanji: with the whole policy, uint8 in torch"
LOG = "docs/LOG.md, 2026-11-22, real shard"
NOTES = "kkanji's design notes, DALI 2.4.0, 2 cores"
AWS = "Amazon S3 performance guidelines and design patterns"
NVIDIA = "NVIDIA DeepLearningExamples, PyTorch EfficientNet, A100 80GB, mixed precision, one GPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A number and where it comes from."""

    value: float
    """The number."""
    unit: str
    """Its unit."""
    origin: Origin
    """Whether it was measured here, published or assumed, or is an estimate."""
    source: str
    """The file, document or option that it comes from."""


class Layout(NamedTuple):
    """A way to store images, by the names of its figures."""

    stored_bytes: str
    """Figure of the bytes of an image in the bucket."""
    unpack: str | None
    """Figure of the core seconds to decompress an image, once an epoch on arrival; None if it is not compressed."""
    gather: str
    """Figure of the core seconds to put an image into a batch."""
    packed: bool = True
    """Whether the cache holds it uncompressed, however it is stored in the bucket; true by default."""


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
# Times that a saved activation crosses the memory: written, read by the next layer, read again in the backward pass,
# and its gradient written and read.
CROSSINGS = 5
GRADIENT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The work and memory of a network."""

    name: str
    """Variant, such as b0."""
    multiply_adds: float
    """Multiply-adds of the forward pass for one image."""
    saved_bytes: float
    """Bytes of activations saved for the backward pass for one image, in bfloat16."""
    parameters: int
    """Number of parameters."""


def network(variant: str) -> Network:
    """Measure a variant of kkanji's EfficientNet. Raises InputError if there is no such variant."""
    model = create_model(f"{FAMILY}{variant}", FULL["classes"])
    return Network(
        name=variant,
        multiply_adds=training_flops(model) / 6,
        saved_bytes=saved_bytes_per_image(model) / 2,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def measured_rates(results: Path, given: Mapping[str, float]) -> dict[str, Figure]:
    """Measured images/s of one GPU by variant. given: those of --rates, which outrank the examination's gpu.json."""
    rates: dict[str, Figure] = {}
    for row, machine in _examined(results):
        variant = row["network"].removeprefix(FAMILY)
        if variant not in rates or row["images/s"] > rates[variant].value:
            source = f"gpu.json, {row['name']}, {machine}"
            rates[variant] = _figure(row["images/s"], "images/s", "measured", source)
    return rates | {variant: _figure(rate, "images/s", "measured", "--rates") for variant, rate in given.items()}


def _examined(results: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Steps of the examination of a GPU, with the GPU's name; none if there was no such examination."""
    path = results / "gpu.json"
    found = read_result(path) if path.exists() else {}
    machine = found.get("environment", {}).get("gpu")
    if machine and found.get("options", {}).get("device") == "cuda":
        yield from ((row, machine) for row in found.get("steps", []) if "images/s" in row)


def _least_step(results: Path) -> Figure:
    """A step cannot end before the host has launched it, however few its images are."""
    examined = [(row["host ms"] / 1e3, f"gpu.json, {row['name']}, {machine}") for row, machine in _examined(results)]
    if examined:
        seconds, source = min(examined)
        return _figure(seconds, "s", "measured", f"{source}: the host's part")
    return _figure(0.033, "s", "ESTIMATE", f"{NVIDIA}: 11 ms forward at batch 1; backward twice that")


def gpu_rates(found: Network, measured: Mapping[str, Figure]) -> dict[str, Figure]:
    """Images/s of one H100, or of the GPU that was examined: measured, else a low and a high estimate."""
    if found.name in measured:
        return {"measured": measured[found.name]}
    # Larger variants reach more multiply-adds/s on the A100: interpolated between b0 and b4.
    size = min(4, int(found.name[1:])) / 4 if found.name[1:].isdigit() else 0.0
    arithmetic = A100_B0 + size * (A100_B4 - A100_B0)
    low = arithmetic * H100_MEMORY / A100_MEMORY / found.multiply_adds
    high = H100_MEMORY / (CROSSINGS * found.saved_bytes)
    scaled = f"{NVIDIA}: b0 2,489, b4 331 images/s; by multiply-adds (between b0 and b4 evenly), x 3.35/2.04 TB/s"
    return {
        "low": _figure(low, "images/s", "ESTIMATE", scaled),
        "high": _figure(high, "images/s", "ESTIMATE", f"3.35 TB/s, {CROSSINGS} crossings of each saved activation"),
    }


def figures(results: Path, *, cores: int, network_gbit: float, disk_gb: float, latency_ms: float) -> dict[str, Figure]:
    """All inputs except the GPU's rate. results: folder with loader.json, stream.json and prepare.json.

    Raises InputError if one of these files is missing or lacks a row.
    """
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
        "plain": _figure(_plain_bytes(results / "prepare.json"), "bytes", "measured", "prepare.json, kkanji balance"),
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
        "least step": _least_step(results),
        "jitter": _figure(0.02, "of a step", "assumed", "mean of an exponential delay of each rank"),
    }


def hardware(known: Mapping[str, Figure], *, gpus: int, rate: float, parameters: int) -> Hardware:
    """Nodes of eight H100 that stream uncompressed shards and augment on the GPU."""
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
    """ESTIMATE of the time to sum the gradients, in seconds, if none of it overlaps with the backward pass.

    Ring all-reduce within a node over NVLink (450 GB/s) and between nodes over 400 Gbit/s a GPU, with 10 us a hop.
    """
    size = parameters * GRADIENT_BYTES
    within = 2 * (ranks - 1) / ranks * size / 450e9 + 2 * (ranks - 1) * 10e-6
    between = 2 * (nodes - 1) / nodes * size / ranks / 50e9 + 2 * ceil(log2(nodes)) * 10e-6 if nodes > 1 else 0.0
    return within + between


def row(path: Path, name: str, **where: object) -> dict[str, Any]:
    """A measured row of a benchmark's JSON. Raises InputError if there is none."""
    wanted = {"name": name, **where}
    for found in read_result(path).get("rows", []):
        if wanted.items() <= found.items() and "median" in found:
            return dict(found)
    raise InputError(f"{path}: no measured row with {wanted}; run `python -m benchmarks {path.stem}` again")


def _core_s(path: Path, name: str, **where: object) -> float:
    """Core seconds for an image, as all threads of the measurement were busy."""
    threads: float = read_result(path)["options"]["threads"]
    return threads / float(row(path, name, **where)["median"])


def _plain_bytes(path: Path) -> float:
    """Bytes of an image in uncompressed shards."""
    result = read_result(path)
    try:
        return float(result["estimate"]["bytes"] / result["estimate"]["images"])
    except KeyError as error:
        raise InputError(f"{path}: no {error}; run `python -m benchmarks prepare` again") from error


def _figure(value: float, unit: str, origin: Origin, source: str) -> Figure:
    return Figure(value=value, unit=unit, origin=origin, source=source)
