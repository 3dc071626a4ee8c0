"""What the examination asks for, and whether it was reached.

The rates follow from 600,000 images/s of b0, and 1,000,000 of fused_s, on eight H100. What the memory of a GPU limits
is asked of other GPUs in proportion to their memory's rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.rows import Row

H100_BYTES_PER_S = 3.35e12
# Of the data sheets, most specific name first.
MEMORY_RATES = {
    "H100 PCIe": 2.0e12,
    "H100 NVL": 3.94e12,
    "H100": H100_BYTES_PER_S,
    "H200": 4.8e12,
    "B200": 8.0e12,
    "A100-SXM4-40GB": 1.555e12,
    "A100-PCIE-40GB": 1.555e12,
    "A100": 2.039e12,
    "L40S": 0.864e12,
    "L4": 0.3e12,
}
BY_ITSELF = "by itself"  # how a part should end
PASSED, FAILED, NONE, SMALL = "passed", "failed", "not measured", "needs a GPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One demand on the rows of a table."""

    name: str
    """Name in tables."""
    table: str
    """Table of the result."""
    field: str
    """Field of its rows; the largest counts."""
    at: Literal["least", "most"]
    """What the limit is."""
    limit: float
    """The value that passes; on an H100 if it is `by_memory`."""
    rows: str = ""
    """How the names of the rows begin; all rows by default."""
    by_memory: bool = False
    """Whether the limit grows with the rate of the GPU's memory; false by default."""
    exact: bool = False
    """Whether it is no matter of speed: it holds for a CPU too, and no row may fail. False by default."""

    def judged(self, found: Row, gpu: str | None) -> Row:
        """A row of the verdict. gpu: name of the GPU; None for a CPU."""
        chosen = [row for row in found.get(self.table, []) if row["name"].startswith(self.rows)]
        value = max((row[self.field] for row in chosen if self.field in row), default=None)
        needed = self.limit * memory_factor(gpu) if self.by_memory else self.limit
        passed = value is not None and (value >= needed if self.at == "least" else value <= needed)
        verdict = PASSED if passed else FAILED
        if self._broken(found, chosen):
            verdict = FAILED
        elif not chosen:
            verdict = NONE
        elif gpu is None and value is not None and not self.exact:
            verdict = SMALL
        return {"name": self.name, "at": self.at, "needed": needed, "measured": value, "verdict": verdict}

    def _broken(self, found: Row, chosen: Sequence[Row]) -> bool:
        """Whether something failed on the way to the value, or instead of one."""
        parts = [part for part in found.get("parts", []) if part["name"].partition("-")[0] == self.table]
        crashed = any(part["ended"] != BY_ITSELF for part in parts)
        return (crashed and not chosen) or (self.exact and (crashed or any("failed" in row for row in chosen)))


MARKS = (
    Mark(
        name="host to device, pinned, GB/s",
        table="ceilings",
        rows="host to device, pinned",
        field="value",
        at="least",
        limit=20,
    ),
    Mark(
        name="b0 trained, images/s",
        table="steps",
        rows="b0",
        field="images/s",
        at="least",
        limit=75_000,
        by_memory=True,
    ),
    Mark(
        name="fused_s trained, images/s",
        table="steps",
        rows="fused_s",
        field="images/s",
        at="least",
        limit=125_000,
        by_memory=True,
    ),
    Mark(name="augmentation of 6,250 images, ms", table="augmentation", field="ms", at="most", limit=0.5),
    Mark(
        name="augmentation, gray levels from the CPU's",
        table="augmentation",
        field="gray levels apart",
        at="most",
        limit=1,
        exact=True,
    ),
    Mark(
        name="loader, gray levels from the CPU's",
        table="loader",
        field="gray levels apart",
        at="most",
        limit=1,
        exact=True,
    ),
    Mark(
        name="loader alone, images/s",
        table="loader",
        rows="augmented: alone",
        field="images/s",
        at="least",
        limit=250_000,
    ),
    Mark(name="waiting for data, of the time", table="fed", field="waited", at="most", limit=0.005),
    Mark(name="tests that failed", table="tests", field="failed tests", at="most", limit=0, exact=True),
)


def memory_factor(gpu: str | None) -> float:
    """The rate of this GPU's memory in that of an H100; 1 for a GPU that is not in the table, and for a CPU."""
    known = (rate for name, rate in MEMORY_RATES.items() if name in (gpu or ""))
    return next(known, H100_BYTES_PER_S) / H100_BYTES_PER_S


def judge(result: dict[str, Any]) -> list[Row]:
    """A row for each mark."""
    gpu = result["environment"]["gpu"] if result["options"]["device"] == "cuda" else None
    return [mark.judged(result, gpu) for mark in MARKS]


def verdict(marks: Sequence[Row]) -> str:
    """One sentence."""
    names = {kind: [row["name"] for row in marks if row["verdict"] == kind] for kind in (PASSED, FAILED, NONE, SMALL)}
    parts = [f"{len(names[PASSED])} of {len(marks)} pass marks reached"]
    parts += [f"{kind}: {'; '.join(names[kind])}" for kind in (FAILED, NONE, SMALL) if names[kind]]
    return f"{'. '.join(parts)}."
