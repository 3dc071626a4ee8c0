"""How much fits into a device's memory: found by trying."""

from collections.abc import Callable

import torch
from accelerate.utils.memory import clear_device_cache

# How libraries say that memory ran out where torch's own allocator is not asked: CUDA itself, and the workspaces and
# handles that cuBLAS and cuDNN make at first use (CUDA Toolkit 13 and cuDNN 9, their tables of status codes). A handle
# that cuBLAS cannot make "is not initialized", which elsewhere means other things.
OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # torch, on a CPU
)


def largest_that_fits(attempt: Callable[[int], None], wanted: int) -> int:
    """The first of `wanted`, a half, a quarter ... images for which the attempt has enough memory; 0 if none has.

    Not `accelerate.utils.find_executable_batch_size`, which takes what cuDNN does not support for a lack of memory.
    """
    images = wanted
    while images:
        fits = _fits(attempt, images)
        clear_device_cache(garbage_collection=True)  # for the next attempt, and for the loader's own allocator
        if fits:
            break
        images = -(-images // 2) if images > 1 else 0
    return images


def _fits(attempt: Callable[[int], None], images: int) -> bool:
    try:
        attempt(images)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
            return False
        raise
    return True
