"""How many images a device can take at once: a micro-batch from measured activations and free memory."""

import copy

import psutil
import torch
from torch import Tensor, nn

from shards.layout import IMAGE_SIZE

PROBE = 2  # images; what is saved grows linearly with them
SHARE = 0.6  # of the free memory; the rest is for the optimizer's state, the backward pass's buffers and the loader
# On a CPU memory is not what limits: with 2 cores, images/s were flat up to 256 images (docs/LOG.md, 2026-11-22).
CPU_LARGEST = 128


def derive_micro_batch(model: nn.Module, device: torch.device, wanted: int) -> int:
    """At most `wanted` images, as many as the device's free memory holds activations of."""
    largest = free_bytes(device) * SHARE / saved_bytes_per_image(model)
    if device.type == "cpu":
        largest = min(largest, CPU_LARGEST)
    return max(1, min(wanted, int(largest)))


def saved_bytes_per_image(model: nn.Module) -> float:
    """Bytes that one image's forward pass keeps for the backward pass, float32, measured on a copy on the CPU."""
    probe = copy.deepcopy(model).cpu().train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in probe.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = probe(torch.zeros(PROBE, 1, IMAGE_SIZE, IMAGE_SIZE))
    del output  # held until here: freed activations would give their addresses to later ones
    return max(1.0, sum(saved.values()) / PROBE)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
