import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import examine
from benchmarks.gpu.examine import gpu
from benchmarks.subject import ROOT
from shards import InputError


def test_the_command_on_a_cpu_where_charts_cannot_be_drawn(tmp_path: Path) -> None:
    """From end to end: the kernel in Triton's interpreter, on a machine without matplotlib, as a GPU's may be."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not on this machine')")
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--parts", "augmentation"]
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [*command, "--output", str(output)], env=variables, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert [row["gray levels apart"] for row in found["augmentation"]] == [0, 0]
    (part,) = found["parts"]
    assert part["name"] == "augmentation" and part["ended"] == "by itself" and part["seconds"] > 0
    assert found["verdict"] in done.stdout and "needs a GPU: augmentation of 6,250 images, ms" in found["verdict"]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A shell script in the place of a part's process, and the output."""

    def install(script: str) -> Path:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return tmp_path / "gpu.json"

    return install


ROW = """echo '{"name": "one", "value": 1.0}'"""


def run(output: Path, *parts: str, minutes: float = 1) -> dict[str, Any]:
    gpu(device="cpu", parts=parts, minutes=minutes, output=output)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_a_part_that_hangs_is_ended_with_what_it_started_and_its_rows_stay(child: Callable[[str], Path]) -> None:
    output = child(f"{ROW}; sleep 300 & echo $! >&2; wait")
    found = run(output, "ceilings", "precision", minutes=0.01)
    assert [row["name"] for row in found["ceilings"]] == [row["name"] for row in found["precision"]] == ["one"]
    assert [part["ended"] for part in found["parts"]] == ["after 1 s", "after 1 s"]


def test_a_part_that_crashes_costs_the_others_nothing(child: Callable[[str], Path]) -> None:
    found = run(child(f'{ROW}; [ "$3" = ceilings ] && kill -9 $$; exit 0'), "ceilings", "precision")
    assert [part["ended"] for part in found["parts"]] == ["with status -9", "by itself"]
    assert found["ceilings"] and found["precision"]


def test_a_part_that_is_run_again_replaces_its_rows_only(child: Callable[[str], Path]) -> None:
    output = child(ROW)
    run(output, "steps-b0", "steps-fused_s")
    found = run(child(ROW.replace("1.0", "2.0")), "steps-b0")
    assert {row["part"]: row["value"] for row in found["steps"]} == {"steps-b0": 2.0, "steps-fused_s": 1.0}
    assert [part["name"] for part in found["parts"]] == ["steps-fused_s", "steps-b0"]
    found["environment"]["gpu"] = "another one"
    output.write_text(json.dumps(found))
    assert [row["part"] for row in run(output, "steps-b0")["steps"]] == ["steps-b0"], "another machine's rows are gone"


def test_nonsense_and_a_machine_without_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--parts wings, --minutes 8: expected .* some of: ceilings, "):
        gpu(device="cpu", parts=("wings",))
    with pytest.raises(InputError, match="expected more than 0 minutes"):
        gpu(device="cpu", minutes=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU; `--device cpu` tries"):
        gpu()
    assert examine.OUTPUTS["cpu"] != examine.OUTPUTS["cuda"], "a CPU's figures must not pass for a GPU's"
