"""Functions that Numba compiles, kept on the disk where that is possible."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba import cfunc, njit

_SETTINGS: Any = numba.config  # its names are made at run time


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


def callback(signature: Any, *modules: ModuleType) -> Callable[[Any], Any]:
    """Compile at the import to a C function of this signature, and keep the result beside the code if possible.

    modules: whose functions it calls. Numba asks only whether the file of the function itself has changed, so what is
    kept lies in a folder named by the digest of all of these files.
    """

    def decorate(function: Any) -> Any:
        own = Path(function.__code__.co_filename)
        digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in modules)).hexdigest()
        folder = own.parent / "__pycache__" / f"{own.stem}-{digest[:16]}"
        before = _SETTINGS.CACHE_DIR
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return cfunc(signature)(function)
        try:
            _SETTINGS.CACHE_DIR = str(folder)
            return cfunc(signature, cache=True)(function)
        finally:
            _SETTINGS.CACHE_DIR = before

    return decorate
