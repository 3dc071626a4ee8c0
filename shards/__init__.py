"""Bytes and order of an image set: layout, manifest, writer, random-access reader, orders, object store, cache, checks.

Nothing here knows what an image means. The package needs NumPy, Numba, and the storage and compression libraries; it
imports neither torch nor DALI.
"""

from shards.errors import ChangedShard, CorruptShard, InputError, MissingShard, ShardError, StorageError
from shards.format.layout import BLOCK_SIZES, IMAGE_BYTES, IMAGE_SIZE
from shards.format.manifest import Lineage, Manifest, Split
from shards.format.manifest_reader import read_manifest
from shards.format.manifest_writer import write_manifest
from shards.format.samples import Samples
from shards.format.shard_table import Block, Shard
from shards.format.writer import shard_name, write_shard
from shards.order.balanced import BalancedOrder
from shards.order.sequential import Order, Plan, SampleOrder
from shards.order.windowed import WindowedOrder
from shards.output.files import atomic_file, write_file
from shards.output.folder import OutputFolder
from shards.output.lock import FolderLock
from shards.read.reader import SplitReader
from shards.read.shard_set import ShardSet, default_cache
from shards.verify.verify import Verification, verify

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
