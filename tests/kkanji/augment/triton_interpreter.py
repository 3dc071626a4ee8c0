"""The GPU's augmentation on a CPU: a copy of its module whose kernel Triton's interpreter runs."""

import os
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest

from kkanji.augment import triton_kernels


def interpreted() -> ModuleType:
    """A copy, as Triton decides where a kernel's decorator stands whether it is compiled or interpreted."""
    spec = find_spec(triton_kernels.__name__)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module
