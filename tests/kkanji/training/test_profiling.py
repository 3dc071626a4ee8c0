import gc
from pathlib import Path

import torch

from kkanji.training.profiling import LEFT_OUT, WARM_UP, profiled, without_garbage_collection


def test_traces_are_written_for_so_many_steps(tmp_path: Path) -> None:
    with profiled(2, tmp_path / "profile") as profiler:
        for _ in range(LEFT_OUT + WARM_UP + 3):
            torch.randn(8, 8) @ torch.randn(8, 8)
            profiler.step()
    (trace,) = (tmp_path / "profile").iterdir()
    assert "aten::mm" in trace.read_text()


def test_none_are_written_unless_asked_for(tmp_path: Path) -> None:
    with profiled(0, tmp_path / "profile") as profiler:
        profiler.step()
    assert not (tmp_path / "profile").exists()


def test_garbage_waits() -> None:
    with without_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
