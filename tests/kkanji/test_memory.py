import pytest
import torch

from kkanji.memory import largest_that_fits

WORDS = (
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9 b",
)
OTHERS = (
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm`",
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), *map(RuntimeError, WORDS)])
def test_halved_until_it_fits(error: RuntimeError) -> None:
    """Whoever finds the memory full: torch's allocator, or a library that makes its handle or workspace."""
    tried: list[int] = []

    def attempt(images: int) -> None:
        tried.append(images)
        if images > 7:
            raise error

    assert largest_that_fits(attempt, 50) == 7
    assert tried == [50, 25, 13, 7]


def test_nothing_fits() -> None:
    def attempt(images: int) -> None:
        raise torch.OutOfMemoryError(f"{images}")

    assert largest_that_fits(attempt, 5) == 0


@pytest.mark.parametrize("words", OTHERS)
def test_other_errors_are_no_want_of_memory(words: str) -> None:
    def attempt(images: int) -> None:
        raise RuntimeError(f"{words} {images}")

    with pytest.raises(RuntimeError, match=words):
        largest_that_fits(attempt, 8)
