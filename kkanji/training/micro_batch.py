"""How many images a device can process at once: estimated from measured activations and free memory, then tried."""

import copy
import warnings
from functools import partial

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kkanji.memory import largest_that_fits
from kkanji.pixels import normalise
from shards import InputError
from shards.format.layout import IMAGE_BYTES, IMAGE_SIZE

PROBE = 2  # images; saved activations grow linearly with them
FREE_FRACTION = 0.6  # of the free memory; the rest is for the optimizer's state, backward buffers and the loader
# On a CPU memory is not what limits: with 2 cores, images/s were flat up to 256 images (docs/LOG.md, 2026-11-22).
CPU_LARGEST = 128
# What a run keeps on its device besides a trial step, counted in the code. In sizes of the weights: Adam's three states
# and the buckets in which DDP exchanges gradients. In bytes per pixel: one as read, one joined with its batch, one
# augmented and one in DALI's copy of that (kkanji/data/dali.py), for each of four batches ready, in use or under way.
STATES, PIXEL_BYTES = 4, 16


def derive_micro_batch(model: nn.Module, device: torch.device, wanted: int) -> int:
    """The number of images, at most `wanted`, whose activations fit into the device's free memory."""
    largest = free_bytes(device) * FREE_FRACTION / saved_bytes_per_image(model)
    if device.type == "cpu":
        largest = min(largest, CPU_LARGEST)
    return max(1, min(wanted, int(largest)))


def resolve_micro_batch(model: nn.Module, accelerator: Accelerator, wanted: int) -> int:
    """`wanted` images, halved until a trial step with them fits on the device of every rank.

    All ranks call this before a run's first step, with the model on the device and not wrapped yet. It warns if it had
    to halve. Raises InputError, on all ranks, if a single image does not fit.
    """
    fitting = largest_that_fits(partial(_try_step, model, accelerator), wanted)
    images = int(accelerator.gather(torch.tensor([fitting], device=accelerator.device)).min())
    if images == 0:
        raise InputError(
            f"{accelerator.device}: no memory for a step with one image; free some, or give a smaller --model"
        )
    if images < wanted and accelerator.is_main_process:
        found = f"no memory on every device for a step with {wanted} images; --micro-batch is {images}"
        warnings.warn(found, UserWarning, stacklevel=2)
    return images


def _try_step(model: nn.Module, accelerator: Accelerator, images: int) -> None:
    """Forward and backward over blank images, with as much memory taken as a run needs for everything else.

    A copy of the model does it: weights, batch statistics, gradients and random numbers stay as they are.
    """
    device = accelerator.device
    size = STATES * sum(parameter.nbytes for parameter in model.parameters()) + images * IMAGE_BYTES * PIXEL_BYTES
    room = torch.empty(size, dtype=torch.uint8, device=device)
    blank = torch.zeros(images, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=device)
    labels = torch.zeros(images, dtype=torch.int64, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trial = copy.deepcopy(model).train()
        with accelerator.autocast():
            logits = trial(normalise(blank))
        cross_entropy(logits.float(), labels, reduction="sum").backward()
    del room


def saved_bytes_per_image(model: nn.Module) -> float:
    """Bytes that the forward pass of an image keeps for the backward pass in float32, measured on the CPU."""
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
    del output  # kept until here: later activations would reuse the addresses of freed ones and not be counted
    return max(1.0, sum(saved.values()) / PROBE)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
