"""Compare the networks: size, work, memory, speed on this machine, and a diagram of some of them.

`python -m benchmarks models`, or on a GPU with --batch 512. Speed is that of the network alone, on a batch that is
already on the device: forward and backward for training, forward for prediction. The optimizer's step is not measured,
as its time does not depend on the number of images.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

import timm
import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.bars import digest, svg
from benchmarks.measure import environment, write_result
from benchmarks.models.anatomy import as_rows, draw, layer_groups_of
from benchmarks.rows import Row, plain
from kkanji import cli
from kkanji.environment import precision_name
from kkanji.models import create_model, is_ours
from kkanji.training.meter import training_flops
from kkanji.training.micro_batch import saved_bytes_per_image
from shards import InputError, write_file
from shards.format.layout import IMAGE_SIZE

Step = Callable[[], None]
PATTERN = "kkanji_efficientnet*"
IN_DIAGRAM = ("kkanji_efficientnet_b0", "kkanji_efficientnet_fused_s", "kkanji_efficientnet_fused_m")


def models(
    *,
    only: tuple[str, ...] = (),
    classes: int = 3_832,
    batch: int = 32,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    repeats: int = 5,
    seconds: float = 1.0,
    output: Path = Path("benchmarks/results/models.json"),
    diagram: Path = Path("docs/networks.svg"),
) -> None:
    """Measure every network of kkanji.models, and draw a diagram of the smallest EfficientNet and of our own two.

    Example: python -m benchmarks models

    Args:
        only: networks by their names, of ours or of timm; all of ours if not given
        classes: classes of each network
        batch: images in a batch
        precision: precision of convolutions and matrix products, as in training
        repeats: measurements of each kind, in turn
        seconds: length of a measurement; a batch that takes longer is still finished
        output: JSON to write
        diagram: SVG to write; not written with --only
    """
    if batch < 1 or repeats < 1 or seconds <= 0 or classes < 1:
        found = f"--classes {classes}, --batch {batch}, --repeats {repeats}, --seconds {seconds}"
        raise InputError(f"{found}: expected more than 0")
    state = environment()
    names = only or tuple(timm.list_models(PATTERN))
    networks = {name: create_model(name, classes) for name in names}
    anatomy = {name: layer_groups_of(network) for name, network in networks.items() if is_ours(name)}
    rows = {name: _facts(name, network) for name, network in networks.items()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = precision_name(precision)
    for name, speeds in _timed(networks, device, kind == "bf16", batch, repeats, seconds).items():
        rows[name] |= speeds | ({"layer_groups": as_rows(anatomy[name])} if name in anatomy else {})
    options = {
        "classes": classes,
        "batch": batch,
        "precision": {"bf16": "bfloat16", "no": "float32"}[kind],
        "repeats": repeats,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    write_result(output, {"benchmark": "models", "options": options, "environment": state, "rows": list(rows.values())})
    if not only:
        diagram.parent.mkdir(parents=True, exist_ok=True)
        write_file(diagram, svg(draw({name: anatomy[name] for name in IN_DIAGRAM}), digest(output)))
    sys.stdout.write("\n".join(plain(list(rows.values()))) + "\n")


def _facts(name: str, network: nn.Module) -> Row:
    """The facts that do not depend on the machine."""
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        # A multiply-add is two operations, and the backward pass takes twice as many as the forward pass.
        "multiply-adds": round(training_flops(network) / 6),
        "MB saved an image": saved_bytes_per_image(network) / 1e6,
    }


def _timed(
    networks: dict[str, nn.Module], device: torch.device, reduced: bool, batch: int, repeats: int, seconds: float
) -> dict[str, Row]:
    """Images/s of each network in training and in prediction.

    The networks take turns, so that a slow minute of the machine affects all of them. reduced: compute in bfloat16.
    """
    images = torch.randn(batch, 1, IMAGE_SIZE, IMAGE_SIZE, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    steps: dict[tuple[str, str], Step] = {}
    for name, network in networks.items():
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps[name, "trained"] = partial(_train, network, images, labels, reduced)
        steps[name, "predicted"] = partial(_predict, network, images, reduced)
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for step in steps.values():
        step()  # warm-up: the first step allocates memory and chooses kernels
    for _ in range(repeats):
        for key, step in steps.items():
            rates[key].append(batch * _steps_per_s(step, seconds, device))
    return {name: _summary(rates[name, "trained"], rates[name, "predicted"]) for name in networks}


def _steps_per_s(step: Step, seconds: float, device: torch.device) -> float:
    count, start = 0, perf_counter()
    while perf_counter() - start < seconds:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return count / (perf_counter() - start)


def _train(network: nn.Module, images: Tensor, labels: Tensor, reduced: bool) -> None:
    """Forward and backward pass, as for a micro-batch of a run."""
    network.train()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
        logits = network(images)
    cross_entropy(logits.float(), labels, reduction="sum").backward()
    network.zero_grad(set_to_none=True)


@torch.inference_mode()
def _predict(network: nn.Module, images: Tensor, reduced: bool) -> None:
    """Forward pass."""
    network.eval()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
        network(images)


def _summary(trained: list[float], predicted: list[float]) -> Row:
    return {
        "images/s trained": median(trained),
        "images/s predicted": median(predicted),
        "n": len(trained),
        "spread": {
            "trained": {"lowest": min(trained), "highest": max(trained)},
            "predicted": {"lowest": min(predicted), "highest": max(predicted)},
        },
    }


if __name__ == "__main__":
    cli.run(lambda: tyro.cli(models))
