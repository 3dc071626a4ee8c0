"""Functions that Numba compiles, kept on the disk where that is possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Compile at the first call, and keep the result beside the code or in the user's cache.

    Where neither folder can be written, as in a container with read-only code and no home, Numba raises RuntimeError
    at the import. Each process then compiles for itself, which takes some seconds.
    """

    def decorate(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate
