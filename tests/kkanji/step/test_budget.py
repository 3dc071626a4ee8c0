"""What a training step may ask of a GPU, network by network: the limits that no change may exceed.

Operators launched and megabytes moved an image, uncompiled, in bfloat16, on tensors without contents. A limit is what
was counted when it was set; lower it with each gain. At 80 % of an H100's memory rate, 2.7 TB/s, 21.6 MB are a million
images a second on eight of them (an estimate: nobody has measured it).
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from kkanji.config import OptimizerName
from kkanji.models import create_model
from kkanji.pixels import normalise
from kkanji.training.optimizers import create_optimizer
from tests.kkanji.step.counting import Work, counted

IMAGES = 2048
CLASSES = 3832
B0, FUSED_S, FUSED_M = (f"kkanji_efficientnet_{name}" for name in ("b0", "fused_s", "fused_m"))


def step(name: str) -> Work:
    """Forward and backward pass of a micro-batch, as `kkanji.training.trainer` takes it."""
    with FakeTensorMode():
        model = create_model(name, CLASSES).train()
        for parameter in model.parameters():
            if parameter.ndim == 4:  # `Module.to` would exchange parameters, which tensors without contents refuse
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        images = torch.empty(IMAGES, 64, 64, 1, dtype=torch.uint8).movedim(3, 1)
        labels = torch.zeros(IMAGES, dtype=torch.int64)
        with counted() as work:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(normalise(images))
            cross_entropy(logits.float(), labels, reduction="sum").backward()
    return work


@pytest.mark.parametrize(
    ("name", "launches", "megabytes"), [(B0, 859, 28.56), (FUSED_S, 316, 6.82), (FUSED_M, 295, 7.87)]
)
def test_a_step_keeps_to_its_budget(name: str, launches: int, megabytes: float) -> None:
    work = step(name)
    assert work.launches.total() <= launches, work.launches.most_common(12)
    assert work.bytes.total() / IMAGES / 1e6 <= megabytes, work.bytes.most_common(12)
    assert work.launches["clone"] == 0, "an activation is copied for its gradient"


def second_step(model: nn.Module, optimizer: Optimizer) -> Work:
    """The first one makes the optimizer's state."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with counted() as work:
        optimizer.step()
    return work


@pytest.mark.parametrize(
    ("name", "launches", "megabytes"),
    [("adam", 4, 178.4), ("adamw", 4, 142.7), ("sgd", 2, 107.0), ("lamb", 39, 748.1), ("muon", 511, 821.7)],
)
def test_an_optimizer_keeps_to_its_budget(
    name: OptimizerName, launches: int, megabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a step of b0, whatever the number of images."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with torch.device("meta" if name in ("lamb", "muon") else "cpu"):  # fused kernels need contents
        model = create_model(B0, CLASSES).to(memory_format=torch.channels_last)
    work = second_step(model, create_optimizer(model, name, lr=1e-3, weight_decay=0.01))
    assert work.launches.total() <= launches, work.launches.most_common(12)
    assert work.bytes.total() / 1e6 <= megabytes, work.bytes.most_common(12)
