from typing import Any

import pytest

from benchmarks.gpu.marks import MARKS, Mark, judge, memory_factor, verdict

GPU = "NVIDIA H200"
GOOD: dict[str, Any] = {
    "options": {"device": "cuda"},
    "environment": {"gpu": GPU},
    "ceilings": [{"name": "host to device, pinned", "value": 50.0}],
    "steps": [
        {"name": "b0, eager, 6,250", "images/s": 60_000.0},
        {"name": "b0, compiled, 6,250", "images/s": 110_000.0},
        {"name": "b0, compiled, CUDA graphs, 6,250", "failed": "OutOfMemoryError"},
        {"name": "fused_s, compiled, 6,250", "images/s": 180_000.0},
    ],
    "augmentation": [{"name": "in order", "ms": 0.2, "gray levels apart": 0}],
    "loader": [{"name": "augmented: same", "gray levels apart": 1}, {"name": "augmented: alone", "images/s": 3e5}],
    "fed": [{"name": "b0", "waited": 0.001}],
    "tests": [{"name": "tests marked gpu", "failed tests": 0}],
}


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in judge(result)}


def test_all_marks_can_be_reached() -> None:
    assert set(verdicts(GOOD).values()) == {"passed"}
    assert verdict(judge(GOOD)) == f"{len(MARKS)} of {len(MARKS)} pass marks reached."


def test_what_memory_limits_is_asked_by_its_rate() -> None:
    needed = {row["name"]: row["needed"] for row in judge(GOOD)}
    assert needed["b0 trained, images/s"] == pytest.approx(107_000, rel=0.01)  # 600,000 on 8 H100
    assert needed["fused_s trained, images/s"] == pytest.approx(179_000, rel=0.01)
    assert memory_factor("NVIDIA H100 80GB HBM3") == memory_factor("an unknown GPU") == 1
    assert memory_factor("NVIDIA H100 PCIe") < memory_factor("NVIDIA A100-SXM4-80GB") < 1 < memory_factor(GPU)
    assert memory_factor("NVIDIA A100-SXM4-40GB") < memory_factor("NVIDIA A100-SXM4-80GB")


@pytest.mark.parametrize(
    ("table", "change", "mark"),
    [
        ("steps", {"name": "b0, compiled", "images/s": 100_000.0}, "b0 trained, images/s"),
        ("augmentation", {"name": "in order", "ms": 0.6}, "augmentation of 6,250 images, ms"),
        ("loader", {"name": "plain: same", "gray levels apart": 2}, "loader, gray levels from the CPU's"),
        ("loader", {"name": "plain: same", "failed": "CUDA error"}, "loader, gray levels from the CPU's"),
        ("fed", {"name": "b0", "failed": "RuntimeError"}, "waiting for data, of the time"),
        ("tests", {"name": "tests marked gpu", "failed tests": 1}, "tests that failed"),
    ],
)
def test_a_mark_that_is_missed(table: str, change: dict[str, Any], mark: str) -> None:
    found = verdicts(GOOD | {table: [change]})
    assert found[mark] == "failed"
    assert f"failed: {mark}" in verdict(judge(GOOD | {table: [change]}))


def test_a_part_that_crashed_has_failed_even_without_rows() -> None:
    crashed = {"loader": [], "parts": [{"name": "loader", "ended": "with status 1"}]}
    found = verdicts(GOOD | crashed)
    assert found["loader alone, images/s"] == found["loader, gray levels from the CPU's"] == "failed"
    late = {"parts": [{"name": "steps-b0", "ended": "after 480 s"}, {"name": "loader", "ended": "after 480 s"}]}
    found = verdicts(GOOD | late)
    assert found["b0 trained, images/s"] == found["loader alone, images/s"] == "passed", (
        "what it measured before counts"
    )
    assert found["loader, gray levels from the CPU's"] == "failed", "but nobody knows what else would differ"


def test_what_was_not_measured_is_said_and_a_cpu_is_only_asked_for_what_is_right() -> None:
    on_a_cpu = GOOD | {"options": {"device": "cpu"}, "tests": []}
    found = verdicts(on_a_cpu)
    assert found["tests that failed"] == "not measured"
    assert {found[mark.name] for mark in MARKS if not mark.exact} == {"needs a GPU"}
    assert {found[mark.name] for mark in MARKS if mark.exact and mark.table != "tests"} == {"passed"}


def test_a_mark_counts_the_best_of_several_rows() -> None:
    mark = Mark(name="rate", table="steps", field="images/s", rows="b0", at="least", limit=100_000)
    assert mark.judged(GOOD, GPU)["measured"] == 110_000
