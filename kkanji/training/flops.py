"""Arithmetic: what a network needs an image, and what a device can do."""

import copy
from time import perf_counter

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shards.format.layout import IMAGE_SIZE

# Dense bfloat16, operations a second: the vendor's data sheets (without sparsity).
GPU_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "L40S": 362e12, "B200": 2250e12}
SIDE, TRIES = 1024, 5  # of the matrices that measure a CPU


def training_flops(model: nn.Module, size: int = IMAGE_SIZE) -> float:
    """Operations, two a multiply-add, of training on an image of size x size: forward, and twice that backward."""
    probe = copy.deepcopy(model).cpu().eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        probe(torch.zeros(1, 1, size, size))
    return 3.0 * float(counter.get_total_flops())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations a second that the device can do at most; None for a GPU that is not in the table.

    A CPU's is measured: the best of a few matrix products, on the threads torch uses.
    """
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device)
        return next((peak for known, peak in GPU_PEAKS.items() if known in name.split()), None)
    left = torch.rand(SIDE, SIDE).to(dtype)
    seconds = []
    for _ in range(TRIES):
        start = perf_counter()
        left @ left
        seconds.append(perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)
