"""Parts about a network: its optimizer step in several ways, optimizers alone, precision, where the time goes.

The step is that of training without DALI and Accelerate: from a uint8 batch on the device to new weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.bench import Bench, Measurement
from benchmarks.gpu.device import real_images
from benchmarks.measure import FULL
from benchmarks.rows import Row
from kkanji.config import OptimizerName
from kkanji.models import create_model
from kkanji.pixels import normalise
from kkanji.training.optimizers import create_optimizer
from shards import IMAGE_SIZE

FAMILY = "kkanji_efficientnet_"
OPTIMIZERS: tuple[OptimizerName, ...] = ("adam", "adamw", "lamb", "muon")
B0, FUSED_S = (f"{FAMILY}{name}" for name in ("b0", "fused_s"))
CLASSES = FULL["classes"]
PROFILED_STEPS = 5
KERNELS = 12  # of a profile, those that take longest


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A way to run the step."""

    name: str
    """Name in tables."""
    channels_last: bool = True
    """Memory format, as training has it; true by default."""
    compiled: bool = False
    """Whether torch.compile made the network; false by default."""
    mode: str | None = None
    """Its mode; None by default."""
    search: bool = False
    """Whether cuDNN tries its algorithms (cudnn.benchmark); false by default."""
    largest_only: bool = True
    """Whether only the largest batch is measured; true by default."""


EAGER = Way(name="eager", largest_only=False)
WAYS = (
    EAGER,
    Way(name="eager, channels first", channels_last=False),
    Way(name="eager, cudnn.benchmark", search=True),
    Way(name="compiled", compiled=True, largest_only=False),
    Way(name="compiled, CUDA graphs", compiled=True, mode="reduce-overhead"),
)


class Step:
    """A network, its optimizer, and one step of training."""

    def __init__(self, bench: Bench, network: str, way: Way = EAGER, optimizer: OptimizerName = "adam") -> None:
        torch.manual_seed(0)
        self._bench, self._way = bench, way
        model = create_model(network, CLASSES).to(bench.device, memory_format=self._format).train()  # type: ignore[call-overload]
        self.optimizer = create_optimizer(model, optimizer, lr=1e-3, weight_decay=0.0)
        self.model = _compiled(model, bench, way) if way.compiled else model

    @property
    def _format(self) -> torch.memory_format:
        return torch.channels_last if self._way.channels_last else torch.contiguous_format

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [size, 1, 64, 64] in the layout that DALI brings, and labels int64 [size]."""
        device = self._bench.device
        images = torch.randint(0, 256, (size, IMAGE_SIZE, IMAGE_SIZE, 1), dtype=torch.uint8, device=device)
        return images.movedim(3, 1), torch.randint(0, CLASSES, (size,), device=device)

    def take(self, images: Tensor, labels: Tensor) -> None:
        """One step."""
        with torch.autocast(self._bench.device.type, torch.bfloat16, enabled=self._bench.bfloat16):
            logits = self.model(normalise(images))
        cross_entropy(logits.float(), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _compiled(model: nn.Module, bench: Bench, way: Way) -> nn.Module:
    """On a CPU by a backend that compiles nothing, as inductor takes minutes there."""
    how: dict[str, Any] = {"mode": way.mode} if bench.cuda else {"backend": "eager"}
    compiled: nn.Module = torch.compile(model, dynamic=False, **how)  # type: ignore[assignment]
    return compiled


def variant(network: str) -> str:
    """The name of a network within its family, such as b0."""
    return network.removeprefix(FAMILY)


def steps(bench: Bench, network: str) -> Iterator[Measurement]:
    """Each way to run the step of a network."""
    for way in WAYS:
        for size in (bench.batch,) if way.largest_only else (bench.batch // 2, bench.batch):
            yield f"{variant(network)}, {way.name}, {size:,}", partial(_speed, bench, network, way, size)


def _speed(bench: Bench, network: str, way: Way, size: int) -> Row:
    torch.compiler.reset()
    torch.backends.cudnn.benchmark = way.search
    try:
        started = perf_counter()
        step = Step(bench, network, way)
        given = step.batch(size)
        step.take(*given)
        bench.synchronise()
        first = perf_counter() - started
        taken, host = (measure(lambda: step.take(*given)) for measure in (bench.seconds, bench.host_seconds))
    finally:
        torch.backends.cudnn.benchmark = False
    return {
        "network": network,
        "batch": size,
        "images/s": size / taken,
        "ms": taken * 1e3,
        "host ms": host * 1e3,
        "first step, s": first,
        "peak GB": _peak_gb(bench),
    }


def _peak_gb(bench: Bench) -> float | None:
    """Most memory of tensors since the last call."""
    if not bench.cuda:
        return None
    peak = torch.cuda.max_memory_allocated(bench.device) / 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    return peak


def optimizers(bench: Bench) -> Iterator[Measurement]:
    """The optimizers alone, on b0."""
    for name in OPTIMIZERS:
        yield name, partial(_optimizer, bench, name)


def _optimizer(bench: Bench, name: OptimizerName) -> Row:
    step = Step(bench, B0 if bench.cuda else FUSED_S, optimizer=name)
    for parameter in step.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    step.optimizer.step()
    taken, host = (measure(step.optimizer.step) for measure in (bench.seconds, bench.host_seconds))
    return {"ms": taken * 1e3, "host ms": host * 1e3}


def precision(bench: Bench) -> Iterator[Measurement]:
    """Gradients on the device against those of the CPU in float32."""
    for network in (B0, FUSED_S) if bench.cuda else (FUSED_S,):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{variant(network)}, {str(dtype).removeprefix('torch.')}"
            yield name, partial(_gradient_error, bench, network, dtype)


def _gradient_error(bench: Bench, network: str, dtype: torch.dtype) -> Row:
    expected = _gradient(bench, network, torch.device("cpu"), torch.float32)
    found = _gradient(bench, network, bench.device, dtype)
    return {
        "cosine": float(torch.cosine_similarity(expected, found, dim=0)),
        "relative error": float((found - expected).norm() / expected.norm()),
    }


def _gradient(bench: Bench, network: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The gradient of all weights in one vector, without what is random in training."""
    count = 128 if bench.cuda else 4
    images = torch.from_numpy(real_images(count))[:, None].to(device)
    torch.manual_seed(0)
    model = create_model(network, CLASSES, drop_path=0.0).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    model.drop_rate = 0.0
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        logits = model(normalise(images))
    cross_entropy(logits.float(), torch.arange(count, device=device)).backward()
    return torch.cat([parameter.grad.flatten().cpu().double() for parameter in model.parameters()])


def profiles(bench: Bench) -> Iterator[Measurement]:
    """Where the time of eager steps goes, and how much of it the device stands idle."""
    for network in (B0, FUSED_S) if bench.cuda else (FUSED_S,):
        yield variant(network), partial(_profile, bench, network)


def _profile(bench: Bench, network: str) -> Row:
    step = Step(bench, network)
    given = step.batch(bench.batch)
    bench.seconds(lambda: step.take(*given), repeats=1)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]) as profiler:
        started = perf_counter()
        for _ in range(PROFILED_STEPS):
            step.take(*given)
        bench.synchronise()
        wall = perf_counter() - started
    own = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
    kernels = [each for each in profiler.key_averages() if not bench.cuda or str(each.device_type).endswith("CUDA")]
    times = sorted(((float(getattr(each, own)) / 1e6, each) for each in kernels), key=lambda pair: -pair[0])
    top = [{"kernel": each.key[:90], "calls": each.count, "s": taken} for taken, each in times[:KERNELS]]
    return {"steps": PROFILED_STEPS, "s": wall, "busy": sum(taken for taken, _ in times) / wall, "kernels": top}
