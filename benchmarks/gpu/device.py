"""Parts that need neither a network nor a shard set: the device's ceilings, and the augmentation kernel."""

from collections.abc import Callable, Iterator
from time import perf_counter

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.bench import Bench, Measurement
from benchmarks.rows import Row
from benchmarks.subject import ROOT
from kkanji.augment.policy import Policy, apply, sample_rows
from shards import IMAGE_SIZE

LAUNCHES = 1_000


def ceilings(bench: Bench) -> Iterator[Measurement]:
    """What nothing on this device can exceed."""
    size = 1 << 30 if bench.cuda else 1 << 22
    side = 8_192 if bench.cuda else 128
    pinned, pageable = (torch.empty(size, dtype=torch.uint8, pin_memory=pin and bench.cuda) for pin in (True, False))
    there, other = (torch.empty(size, dtype=torch.uint8, device=bench.device) for _ in range(2))
    matrix = torch.randn(side, side, device=bench.device, dtype=torch.bfloat16)

    def rate(amount: float, unit: str, run: Callable[[], object]) -> Row:
        return {"value": amount / bench.seconds(run), "unit": unit}

    yield "host to device, pinned", lambda: rate(size / 1e9, "GB/s", lambda: there.copy_(pinned, non_blocking=True))
    yield "host to device, pageable", lambda: rate(size / 1e9, "GB/s", lambda: there.copy_(pageable))
    yield "memory, read and written", lambda: rate(2 * size / 1e9, "GB/s", lambda: other.copy_(there))
    yield "matrix product, bfloat16", lambda: rate(2 * side**3 / 1e12, "TFLOP/s", lambda: matrix @ matrix)
    yield "launch of an operator, by the host", lambda: _launch(bench)


def _launch(bench: Bench) -> Row:
    one = torch.empty(1, device=bench.device)
    started = perf_counter()
    for _ in range(LAUNCHES):
        one.add_(1)
    taken = perf_counter() - started
    bench.synchronise()
    return {"value": taken / LAUNCHES * 1e6, "unit": "us"}


def augmentation(bench: Bench) -> Iterator[Measurement]:
    """The kernel against the reference on images of the sample, and its time for a batch."""
    yield "in order", lambda: _augmented(bench, gathered=False)
    yield "gathered by an index", lambda: _augmented(bench, gathered=True)


def _augmented(bench: Bench, *, gathered: bool) -> Row:
    from kkanji.augment.triton_kernels import augment  # here, as it needs Triton and on a CPU its interpreter

    count = bench.batch if bench.cuda else 2  # the interpreter takes a second for an image
    images, rows = real_images(count), sample_rows(Policy(), 0, np.arange(count))
    order = np.random.default_rng(0).permutation(count) if gathered else np.arange(count)
    pixels, table = (torch.from_numpy(each).to(bench.device) for each in (images, rows))
    index = torch.from_numpy(order).to(bench.device) if gathered else None
    found = augment(pixels, table, index).cpu().numpy()
    apart = np.abs(found.astype(int) - apply(images[order], rows))
    taken = bench.seconds(lambda: augment(pixels, table, index))
    return {
        "images": count,
        "ms": taken * 1e3,
        "images/s": count / taken,
        "gray levels apart": int(apart.max()),
        "pixels that differ": float((apart > 0).mean()),
    }


def real_images(count: int) -> NDArray[np.uint8]:
    """Images of the embedded sample [count, 64, 64], repeated where it has fewer. Raises FileNotFoundError without."""
    files = sorted((ROOT / "sample").rglob("*.png"))[:count]
    if not files:
        raise FileNotFoundError(f"{ROOT / 'sample'}: no PNG; run this in a checkout")
    images = np.stack([np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), np.uint8) for file in files])
    return np.resize(images, (count, IMAGE_SIZE, IMAGE_SIZE))
