"""A GPU without one: graphs for it run on the CPU, operator by operator, and its streams and events are stubs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from kkanji.augment.policy import apply


class StubEvent:
    """Of a GPU that is done with what it is given at once, or not before it is waited for, or that has failed."""

    def __init__(self, gpu: "StubGpu") -> None:
        self._gpu = gpu

    def record(self, stream: Any) -> None:
        self._gpu.log.append(("record", stream))

    def query(self) -> bool:
        return self._gpu.idle

    def synchronize(self) -> None:
        self._gpu.log.append(("synchronize", None))
        if self._gpu.failed:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


class StubStream:
    """Notes who waits for it."""

    def __init__(self, gpu: "StubGpu", name: str) -> None:
        self._gpu, self.name = gpu, name

    def wait_stream(self, other: "StubStream") -> None:
        self._gpu.log.append(("wait", (self.name, other.name)))

    def __repr__(self) -> str:
        return self.name


class StubGpu:
    """What a loader asked of the GPU."""

    def __init__(self) -> None:
        self.idle, self.failed = True, False
        self.log: list[tuple[str, Any]] = []

    def named(self, name: str) -> list[Any]:
        """The arguments of all calls of this name."""
        return [given for call, given in self.log if call == name]


def install(patch: pytest.MonkeyPatch) -> StubGpu:
    """Whatever is built and run for a GPU from here on is run on the CPU by the same functions."""
    gpu = StubGpu()
    _patch_dali(patch, gpu)
    patch.setattr("kkanji.augment.triton_kernels.augment", reference)
    patch.setattr(torch.cuda, "Event", lambda: StubEvent(gpu))
    patch.setattr(torch.cuda, "Stream", lambda device: StubStream(gpu, f"own stream on {device}"))
    patch.setattr(torch.cuda, "current_stream", lambda device: StubStream(gpu, f"stream in use on {device}"))

    @contextmanager
    def on(stream: StubStream) -> Iterator[None]:
        gpu.log.append(("on", stream.name))
        yield

    patch.setattr(torch.cuda, "stream", on)
    return gpu


def reference(images: torch.Tensor, rows: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
    """What the GPU's kernel computes, by the CPU's: the interpreter of Triton takes seconds for a batch."""
    chosen = images if index is None else images[index]
    return torch.from_numpy(apply(chosen.numpy(), rows.numpy()))


def _patch_dali(patch: pytest.MonkeyPatch, gpu: StubGpu) -> None:
    def on_cpu(operator: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *inputs, **options: operator(*inputs, **options | {"device": "cpu"})

    make, run = Pipeline.__init__, Pipeline.run

    def make_for_cpu(self: Pipeline, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options | {"device_id": None})

    def run_on(self: Pipeline, stream: Any = None) -> Any:
        gpu.log.append(("run", stream and stream.name))
        return run(self)

    make_for_cpu.__signature__ = signature(make)  # type: ignore[attr-defined]  # DALI looks at its arguments
    patch.setattr(Pipeline, "__init__", make_for_cpu)
    patch.setattr(Pipeline, "run", run_on)
    patch.setattr(DataNode, "gpu", lambda node: node)
    patch.setattr(fn, "dl_tensor_python_function", on_cpu(fn.dl_tensor_python_function))
    patch.setattr(fn.decoders, "image", on_cpu(fn.decoders.image))
