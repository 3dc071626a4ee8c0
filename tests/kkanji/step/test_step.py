"""A step on a device of which nothing can be read: whatever waits for the device, fails."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from kkanji.config import OptimizerName, TrainConfig, train_config
from kkanji.data.dali import Batch
from kkanji.models import create_model
from kkanji.pixels import normalise, resized
from kkanji.training.averages import BatchStatistics, create_average
from kkanji.training.build import Learner, Run
from kkanji.training.finite_guard import FiniteGuard
from kkanji.training.meter import Meter
from kkanji.training.objective import CrossEntropy, Mixup
from kkanji.training.optimizers import create_optimizer
from kkanji.training.schedule import Rank
from kkanji.training.trainer import take_step
from shards import Plan

# A tensor of this device has a shape and no contents.
DEVICE = torch.device("meta")
CLASSES, IMAGES = 6, 24


def learner(config: TrainConfig) -> Learner:
    with DEVICE:
        network = create_model(config.network.model, CLASSES).to(memory_format=torch.channels_last)
    optimizer = create_optimizer(network, config.optimization.optimizer, lr=1e-3, weight_decay=0.01)
    return Learner(
        model=network,
        network=network,
        mixup=Mixup(alpha=1.0, stages=2),
        objective=CrossEntropy(smoothing=0.1),
        optimizer=cast(Any, optimizer),
        guard=FiniteGuard(network.parameters(), DEVICE, str),
        average=create_average(network, 100.0),
        statistics=BatchStatistics(network, cast(Any, SimpleNamespace(num_processes=1))),
        flops=lambda _: 1e9,
    )


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_no_step_waits_for_its_device(name: OptimizerName) -> None:
    """Two micro-batches of mixed images that grow and look like scans, guard, optimizer, average and meter; twice.

    The other optimizers are one fused kernel of torch each, which this device has not.
    """
    options: dict[str, Any] = {
        "model": "kkanji_efficientnet_fused_s",
        "optimizer": name,
        "start_size": 32,
        "appearance": 0.5,
    }
    config = train_config(data="", output=Path(), batch_size=IMAGES, micro_batch=IMAGES // 2, **options)
    alone = SimpleNamespace(
        device=DEVICE, autocast=nullcontext, no_sync=lambda _: nullcontext(), backward=lambda loss: loss.backward()
    )
    run = SimpleNamespace(
        config=config,
        accelerator=alone,
        learner=learner(config),
        rank=Rank(index=0, count=1),
        plan=Plan(samples=100, epochs=20, batch_size=IMAGES),
    )
    meter = Meter(DEVICE, cast(Any, SimpleNamespace(wait_s=0.0)), cast(Any, SimpleNamespace(traffic=dict)))
    images = torch.zeros(IMAGES // 2, 64, 64, 1, dtype=torch.uint8, device=DEVICE).movedim(3, 1)
    batches = iter([Batch(images=images, labels=torch.zeros(IMAGES // 2, dtype=torch.int64, device=DEVICE))] * 4)
    undisturbed = SimpleNamespace(take=lambda batches, **_: next(batches), settle=lambda: None)
    for step in range(2):
        take_step(cast(Run, run), step, batches, meter, cast(Any, undisturbed))
    assert next(batches, None) is None
    with pytest.raises(RuntimeError, match="meta"):
        run.learner.guard.raise_if_bad()


def test_what_dali_gives_goes_through_the_network_as_it_lies() -> None:
    """[B, 64, 64, 1], read as [B, 1, 64, 64], is channels_last already, and stays so to the last stage."""
    network = create_model("kkanji_efficientnet_fused_s", CLASSES).to(memory_format=torch.channels_last)
    seen: list[bool] = []

    def look(_module: Any, _inputs: Any, output: Tensor) -> None:
        seen.append(output.is_contiguous(memory_format=torch.channels_last))

    for stage in (network.get_submodule("conv_stem"), *network.get_submodule("blocks").children()):
        stage.register_forward_hook(look)
    given = torch.zeros(3, 64, 64, 1, dtype=torch.uint8)
    for size in (64, 32):
        inputs = resized(normalise(given.movedim(3, 1)), size)
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        assert inputs.contiguous(memory_format=torch.channels_last).data_ptr() == inputs.data_ptr()
        network(inputs, torch.tensor([1.0, 0.5, 1.0]))
    assert seen == [True] * 10
