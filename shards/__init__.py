"""Bytes and order of an image set: layout, manifest, writer, random-access reader, orders, object store, cache, checks.

Nothing here knows what an image means. The package needs NumPy, Numba, and the storage and compression libraries; it
imports neither torch nor DALI. What Numba compiles is imported when it is first asked for: half a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import shards.verify  # noqa: F401  (before the function of its name, which it would hide)
from shards.errors import ChangedShard, CorruptShard, InputError, MissingShard, ShardError, StorageError
from shards.format.layout import BLOCK_SIZES, IMAGE_BYTES, IMAGE_SIZE
from shards.format.manifest import Lineage, Manifest, Split
from shards.format.manifest_reader import read_manifest
from shards.format.samples import Samples
from shards.format.shard_table import Block, Shard
from shards.format.writer import shard_name, write_shard
from shards.output.files import atomic_file, write_file
from shards.output.folder import OutputFolder
from shards.output.lock import FolderLock

if TYPE_CHECKING:
    from shards.format.manifest_writer import write_manifest
    from shards.order.balanced import BalancedOrder
    from shards.order.sequential import Order, Plan, SampleOrder
    from shards.order.windowed import WindowedOrder
    from shards.read.reader import SplitReader
    from shards.read.shard_set import ShardSet, default_cache
    from shards.verify.verify import Verification, verify
else:

    def verify(*args: Any, **options: Any) -> Any:
        """Read a shard set wholly, and check every byte of it: see shards.verify.verify."""
        return _later("verify.verify", "verify")(*args, **options)


__all__ = [
    "BLOCK_SIZES",
    "IMAGE_BYTES",
    "IMAGE_SIZE",
    "BalancedOrder",
    "Block",
    "ChangedShard",
    "CorruptShard",
    "FolderLock",
    "InputError",
    "Lineage",
    "Manifest",
    "MissingShard",
    "Order",
    "OutputFolder",
    "Plan",
    "SampleOrder",
    "Samples",
    "Shard",
    "ShardError",
    "ShardSet",
    "Split",
    "SplitReader",
    "StorageError",
    "Verification",
    "WindowedOrder",
    "atomic_file",
    "default_cache",
    "read_manifest",
    "shard_name",
    "verify",
    "write_file",
    "write_manifest",
    "write_shard",
]

_LATER = {
    "write_manifest": "format.manifest_writer",
    "BalancedOrder": "order.balanced",
    **dict.fromkeys(("Order", "Plan", "SampleOrder"), "order.sequential"),
    "WindowedOrder": "order.windowed",
    "SplitReader": "read.reader",
    **dict.fromkeys(("ShardSet", "default_cache"), "read.shard_set"),
    "Verification": "verify.verify",
}


def __getattr__(name: str) -> Any:
    """What is imported later (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _later(_LATER[name], name)
    return value


def _later(module: str, name: str) -> Any:
    return getattr(import_module(f".{module}", __name__), name)
