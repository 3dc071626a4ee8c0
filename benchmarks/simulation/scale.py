"""Beyond this machine: what feeds eight H100, what limits 64 and 1,024 of them, what an epoch costs by storage layout.

`python -m benchmarks scale`. The answers come from a simulation (`benchmarks.simulation.simulate`). It is validated
first, against runs of a small real pipeline with slow stages and against the recorded streaming benchmark. The JSON
lists its inputs and their origin (`benchmarks.simulation.costs`). A GPU's step time is an ESTIMATE in all tables unless
`python -m benchmarks gpu` has measured it, or --rates gives it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from benchmarks.measure import environment, write_result
from benchmarks.peers import BLOCK, WINDOW
from benchmarks.rows import Row, read_result
from benchmarks.simulation import costs, questions
from benchmarks.simulation.cases import Case, Hardware, SimulatedRun
from benchmarks.simulation.simulate import simulate
from benchmarks.simulation.validation import validate
from shards import InputError
from shards.format.layout import IMAGE_BYTES
from shards.read.prefetch import shards_ahead

# Requests one after another before the first shard's, of results that do not say: the manifest's, then the listing.
OPENING_REQUESTS = 2


def scale(
    *,
    variants: tuple[str, ...] = ("b0", "b1", "b2", "b3", "b4"),
    gpus: tuple[int, ...] = (8, 64, 1024),
    rates: dict[str, float] | None = None,
    cores: int = 112,
    network_gbit: float = 100,
    disk_gb: float = 10,
    latency_ms: float = 100,
    repeats: int = 3,
    results: Path = Path("benchmarks/results"),
    output: Path = Path("benchmarks/results/scale.json"),
) -> None:
    """Simulate hosts of eight H100 that are not here, after validating the simulation against this machine.

    Example: python -m benchmarks scale --rates b0 40000

    Args:
        variants: EfficientNets to feed; the first one is used for the questions about many GPUs and about layouts
        gpus: numbers of GPUs, eight in each node
        rates: measured images/s of one GPU by variant, to replace the estimates
        cores: cores of a node
        network_gbit: Gbit/s of a node's network
        disk_gb: GB/s of a node's disks
        latency_ms: milliseconds to the first byte of a request
        repeats: runs of each configuration in the validation
        results: folder with loader.json, stream.json and prepare.json, and gpu.json if a GPU was examined
        output: JSON to write
    """
    given = dict(rates or {})
    _check(gpus, given, (cores, network_gbit, disk_gb), latency_ms)
    measured = costs.measured_rates(results, given)
    known = costs.figures(results, cores=cores, network_gbit=network_gbit, disk_gb=disk_gb, latency_ms=latency_ms)
    started = perf_counter()
    networks = [costs.network(variant) for variant in variants]
    estimates = {network.name: costs.gpu_rates(network, measured) for network in networks}
    answers = {
        "validation": validate(repeats=repeats),
        "recorded": recorded(results / "stream.json"),
        "needs": questions.needs(known, networks, measured),
        "breaks": questions.breaks(known, networks[0], measured, gpus),
        "layouts": questions.layouts(known, networks[0], measured),
        "troubles": questions.troubles(known, networks[0], measured),
    }
    inputs = {name: asdict(figure) for name, figure in known.items()}
    rates_of = {name: {label: asdict(figure) for label, figure in of.items()} for name, of in estimates.items()}
    facts = {"inputs": inputs, "gpu_images_per_s": rates_of, "networks": [asdict(network) for network in networks]}
    result = {"benchmark": "scale", "environment": environment(), "seconds": perf_counter() - started}
    write_result(output, result | facts | answers)
    for title, rows in zip(_titles(networks[0].name, measured), answers.values(), strict=True):
        sys.stdout.write("\n".join(["", title, *lines(rows), ""]))


def recorded(stream: Path) -> list[Row]:
    """Predict the recorded streaming benchmark: calibrated at its least latency, predicted at the others.

    Calibrated is one number, the rate at which bytes arrive. It is such that the simulated epoch takes as long as the
    measured one: the rate between the first and the last batch is higher, as many shards are half there at the first.
    """
    found = read_result(stream)
    rows = [row for row in found["rows"] if row["name"] == "kkanji" and "median" in row]
    if not rows:
        raise InputError(f"{stream}: no measured row named kkanji; run `python -m benchmarks stream` again")
    options = found["options"]
    run = SimulatedRun(
        images=options["images"],
        batch=options["batch"],
        shard=options["shard_bytes"] // IMAGE_BYTES // BLOCK * BLOCK,
        window=WINDOW,
        stored_bytes=IMAGE_BYTES,
        ahead=shards_ahead([options["shard_bytes"]]),
    )
    first, *others = sorted(rows, key=lambda row: row["latency_ms"])
    opening = found.get("opening_requests", OPENING_REQUESTS)
    network = _calibrated(run, first, opening)
    return [_prediction(run, row, opening, network) for row in others]


def _calibrated(run: SimulatedRun, row: Row, opening: int) -> float:
    """Bytes/s with which the simulated epoch is as fast as the measured one, to 0.1 %, by bisection."""
    measured = float(row["median"])
    low, high = measured * IMAGE_BYTES / 2, measured * IMAGE_BYTES * 4
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _epoch_rate(run, row, opening, middle) < measured else (low, middle)
    return high


def _prediction(run: SimulatedRun, row: Row, opening: int, network: float) -> Row:
    predicted, found = _epoch_rate(run, row, opening, network), row["median"]
    name = f"stream.json at {row['latency_ms']} ms"
    return {"name": name, "n": row["n"], "predicted": predicted, "measured": found, "error": predicted / found - 1}


def _epoch_rate(run: SimulatedRun, row: Row, opening: int, network: float) -> float:
    """Images/s of an epoch, from opening the set by so many requests, at the latency of this row."""
    latency_s = float(row["latency_ms"]) / 1e3
    outcome = simulate(Case(hardware=Hardware(network=network, request_s=latency_s), run=run))
    return run.images / (opening * latency_s + outcome.seconds)


def lines(rows: Sequence[Row]) -> list[str]:
    """Lines of a table in fixed columns with a heading."""
    if not rows:
        return ["(nothing)"]
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "over 64" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _titles(variant: str, measured: Mapping[str, costs.Figure]) -> list[str]:
    basis = f"measured GPU rates: {', '.join(measured)}" if measured else "GPU step times are ESTIMATES"
    return [
        "Validation: images/s of a small real pipeline whose stages sleep",
        "Validation: the recorded streaming benchmark, calibrated at its least latency",
        f"What feeds 8 H100 at batch 50,000; {basis}",
        f"What limits {variant} first, streaming; {basis}",
        f"An epoch of {costs.IMAGES:,} images of {variant} on 8 H100, streamed; {basis}",
        f"What goes wrong on 8 H100 that train {variant}; {basis}",
    ]


def _check(gpus: Sequence[int], measured: Mapping[str, float], sizes: Sequence[float], latency_ms: float) -> None:
    wrong = [number for number in gpus if number < 1 or (number > 8 and number % 8)]
    if wrong or not gpus:
        raise InputError(f"--gpus {wrong}: expected numbers up to 8, or multiples of 8: eight a node")
    for name, rate in measured.items():
        if rate <= 0:
            raise InputError(f"--rates {name} {rate}: expected images/s above 0")
    if min(sizes) <= 0 or latency_ms < 0:
        found = f"{sizes[0]}, {sizes[1]}, {sizes[2]}, {latency_ms}"
        raise InputError(
            f"--cores, --network-gbit, --disk-gb, --latency-ms {found}: expected more than 0, latency from 0"
        )
