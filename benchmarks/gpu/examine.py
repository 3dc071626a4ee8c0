"""The command: each part in a process of its own, so that no part's memory, crash or hang costs another its result."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from time import perf_counter
from typing import Any, Literal

import torch

from benchmarks.gpu.marks import BY_ITSELF, judge, verdict
from benchmarks.measure import environment, write_result
from benchmarks.rows import Row, plain, read_result
from benchmarks.subject import ROOT
from kkanji.environment import commit
from shards import InputError

# In this order; the first ones need no shard set. The part after the dash is a network.
PARTS = (
    "ceilings",
    "augmentation",
    "steps-b0",
    "steps-fused_s",
    "steps-fused_m",
    "optimizers",
    "precision",
    "profiles",
    "tests",
    "loader",
    "fed",
    "training",
)
OUTPUTS = {"cuda": "gpu.json", "cpu": "gpu-on-a-cpu.json"}
Found = dict[str, Any]


def gpu(
    *,
    device: Literal["cuda", "cpu"] = "cuda",
    parts: tuple[str, ...] = PARTS,
    minutes: float = 8,
    output: Path | None = None,
) -> None:
    """Examine a GPU: what it can do, what the project gets out of it, and whether that is enough.

    Each part ends within a few minutes, and the JSON is written after each of its measurements. A part that is run
    again on the same machine replaces what it found before; the others stay.

    Example: python -m benchmarks gpu --parts ceilings augmentation steps-b0

    Args:
        device: cpu tries the whole examination on a small scale; its figures mean nothing
        parts: what to examine: ceilings, augmentation, steps-NETWORK, optimizers, precision, profiles, tests, loader,
            fed, training
        minutes: most minutes for a part, after which it is ended
        output: JSON to write; benchmarks/results/gpu.json, or gpu-on-a-cpu.json beside it, if not given
    """
    _check(device, parts, minutes)
    output = output or Path("benchmarks/results") / OUTPUTS[device]
    found = _begin(device, output)
    with tempfile.TemporaryDirectory(prefix="kkanji-benchmark-") as work:
        for part in parts:
            sys.stdout.write(f"== {part}\n")
            for _ in _examine(found, part, Path(work), minutes * 60):
                found["marks"] = judge(found)
                write_result(output, found | {"verdict": verdict(found["marks"])})
    sys.stdout.write("\n".join([*plain(found["marks"]), verdict(found["marks"])]) + "\n")


def _check(device: str, parts: tuple[str, ...], minutes: float) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts or minutes <= 0:
        found = f"--parts {' '.join(unknown or parts)}, --minutes {minutes:g}"
        raise InputError(f"{found}: expected more than 0 minutes and some of: {', '.join(PARTS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU; `--device cpu` tries the examination on a small scale")


def _begin(device: str, output: Path) -> Found:
    """A result without rows; with those of the last examination if it was of the same machine."""
    empty: Found = {"benchmark": "gpu", "options": {"device": device}, "environment": environment()}
    if not output.exists():
        return empty
    before = read_result(output)
    alike = all(before.get("environment", {}).get(key) == empty["environment"][key] for key in ("gpu", "cpu", "torch"))
    return before | empty if alike else empty


def _examine(found: Found, part: str, work: Path, limit_s: float) -> Iterator[None]:
    """Run a part. Its rows replace those that the same part found before."""
    table = found.setdefault(part.partition("-")[0], [])
    table[:] = [row for row in table if row.get("part") != part]
    started, status = perf_counter(), 0
    for row in _rows(part, found["options"]["device"], work, limit_s):
        status = row.pop("status", status)
        if row:
            table.append(row | {"part": part})
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()
        yield
    seconds = perf_counter() - started
    state = {"name": part, "seconds": seconds, "ended": _ended(status, seconds, limit_s)}
    origin = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit()}
    found["parts"] = [*(row for row in found.get("parts", []) if row["name"] != part), state | origin]
    yield


def _ended(status: int, seconds: float, limit_s: float) -> str:
    if status == 0:
        return BY_ITSELF
    return f"after {limit_s:.0f} s" if seconds >= limit_s else f"with status {status}"


def _rows(part: str, device: str, work: Path, limit_s: float) -> Iterator[Row]:
    """Rows of a part as they come, then its status."""
    variables = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    command = [sys.executable, "-m", "benchmarks.gpu", part, device, str(work)]
    process = subprocess.Popen(  # noqa: S603  (our own command)
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True, process_group=0
    )
    timer = Timer(limit_s, _end, [process])
    timer.start()
    try:
        with process:
            assert process.stdout is not None  # noqa: S101  (opened as a pipe)
            for line in process.stdout:
                yield json.loads(line)
            yield {"status": process.wait()}
    finally:
        timer.cancel()
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """With all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
