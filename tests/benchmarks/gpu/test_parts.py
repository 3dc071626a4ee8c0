"""The parts of the examination on a CPU, tiny. The one that needs Triton's interpreter runs in test_examine.py."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import device, feed, programs, step
from benchmarks.gpu.__main__ import part_named
from benchmarks.gpu.bench import Bench, Measurement, rows
from benchmarks.gpu.examine import PARTS
from benchmarks.rows import Row
from kkanji.data.dali import Batch, Loader

TINY = "kkanji_efficientnet_fused_s"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(device=torch.device("cpu"), work=tmp_path)


def found(measurements: Iterator[Measurement]) -> dict[str, Row]:
    """Rows by name; none of them failed."""
    by_name = {row.pop("name"): row for row in rows(measurements)}
    assert not [row for row in by_name.values() if "failed" in row], by_name
    return by_name


def test_every_part_has_its_code() -> None:
    parts = [part_named(name) for name in PARTS]
    functions = [part.func if isinstance(part, partial) else part for part in parts]
    assert len(set(functions)) == len(PARTS) - 2, "three networks, one function for their steps"


def test_ceilings_have_units(bench: Bench) -> None:
    measured = found(device.ceilings(bench))
    assert {row["unit"] for row in measured.values()} == {"GB/s", "TFLOP/s", "us"}
    assert all(row["value"] > 0 for row in measured.values())


def test_a_step_is_measured_in_every_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = []
    take = step.Step.take

    def watched(self: step.Step, images: torch.Tensor, labels: torch.Tensor) -> None:
        weight = next(each for each in self.model.parameters() if each.ndim == 4 and each.shape[1] > 1)
        formats.append(weight.is_contiguous(memory_format=torch.channels_last))
        take(self, images, labels)

    monkeypatch.setattr(step.Step, "take", watched)
    monkeypatch.setattr(step, "WAYS", [way for way in step.WAYS if not way.compiled])
    measured = found(step.steps(bench, TINY))
    assert list(measured) == [
        "fused_s, eager, 4",
        "fused_s, eager, 8",
        "fused_s, eager, channels first, 8",
        "fused_s, eager, cudnn.benchmark, 8",
    ]
    assert all(row["images/s"] == pytest.approx(row["batch"] / row["ms"] * 1e3) for row in measured.values())
    assert True in formats and False in formats


def test_a_compiled_step_learns_as_an_eager_one(bench: Bench) -> None:
    compiled = next(way for way in step.WAYS if way.compiled)
    weights = []
    for way in (step.EAGER, compiled):
        made = step.Step(bench, TINY, way, "adamw")
        images, _ = made.batch(2)
        torch.manual_seed(1)
        made.take(torch.zeros_like(images), torch.tensor([1, 2]))
        weights.append(torch.cat([each.detach().flatten() for each in made.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-3)
    torch.compiler.reset()


def test_optimizers_precision_and_profile(bench: Bench) -> None:
    assert list(found(step.optimizers(bench))) == list(step.OPTIMIZERS)
    gradients = found(step.precision(bench))
    assert gradients["fused_s, float32"] == {"cosine": pytest.approx(1), "relative error": pytest.approx(0, abs=1e-6)}
    assert 0 < gradients["fused_s, bfloat16"]["relative error"] < 0.5
    profile = found(step.profiles(bench))["fused_s"]
    assert profile["kernels"][0]["s"] >= profile["kernels"][-1]["s"] > 0 and profile["s"] > 0


def test_the_loader_brings_the_same_images_and_a_wrong_one_is_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = found(feed.loader(bench))
    same, alone, beside = (
        f"augmented: {name}" for name in ("same images as on the CPU", "alone", "beside a busy device")
    )
    assert measured[same] == {"gray levels apart": 0, "pixels that differ": 0, "labels that differ": 0}
    assert measured[alone]["images/s"] > 0 and measured[beside]["ms of work"] > 0 <= measured[beside]["ms waited"]
    made = iter(range(1_000))
    bring = Loader.__iter__

    def other(self: Loader) -> Iterator[Batch]:
        for batch in bring(self):
            yield Batch(images=batch.images, labels=batch.labels + next(made))

    monkeypatch.setattr(Loader, "__iter__", other)
    worse = found(part for part in feed.loader(bench) if part[0].startswith("plain: same"))
    assert worse["plain: same images as on the CPU"]["labels that differ"] > 0


def test_programs_are_started_and_their_results_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs themselves have tests of their own; here only their last words are made up."""
    said = {"pytest": ("..F\n1 failed, 2 passed, 3 skipped in 0.1s", 1), "benchmarks": ("", 2)}

    def start(command: list[str], _: object) -> subprocess.CompletedProcess[str]:
        output, status = said[command[2]]
        return subprocess.CompletedProcess(command, status, output, "no such network\n")

    monkeypatch.setattr(programs, "start", start)
    row = found(programs.tests(bench))["tests marked gpu"]
    assert (row["passed"], row["failed tests"], row["skipped"]) == (2, 1, 3) and row["files"] >= 3
    (failed,) = rows(programs.fed(bench))
    assert failed["failed"] == "RuntimeError: benchmarks train: status 2: no such network"
