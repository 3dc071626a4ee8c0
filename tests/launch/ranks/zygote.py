"""Imported by the process that a pool's processes are forked from, so that imports and compiled code are shared.

Compiled here, the loader's functions are machine code in memory. A whole pipeline could not be shared: it has threads.
"""

from typing import Any

from nvidia.dali.plugin.numba import NumbaFunction

from kkanji.data.dali import GraphOptions, build_graph
from tests.launch.ranks import pool  # noqa: F401


def compile_once(method: str) -> None:
    """Have DALI compile a function once for all its pipelines: what it keeps of it is its address."""
    original = getattr(NumbaFunction, method)
    addresses: dict[Any, int] = {}

    def compiled(self: Any, function: Any, *types: Any) -> int:
        key = function, repr(types)
        if key not in addresses:
            addresses[key] = original(self, function, *types)
        return addresses[key]

    setattr(NumbaFunction, method, compiled)


for name in ("_get_setup_fn_cpu", "_get_run_fn_cpu"):
    compile_once(name)
build_graph(lambda: [], GraphOptions(device_id=None))
