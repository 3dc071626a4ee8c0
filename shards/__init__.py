"""Bytes and order of an image set: layout, manifest, writer, random-access reader, orders, object
store, node-local cache, verification.

Nothing here knows what an image means. Imports NumPy, the storage and compression libraries (no torch, no DALI).
"""

from shards.draws import DrawnOrder
from shards.errors import ChangedShard, CorruptShard, InputError, MissingShard, ShardError, StorageError
from shards.layout import BLOCK_SIZES, IMAGE_BYTES, IMAGE_SIZE
from shards.locking import FolderLock
from shards.manifest import Block, Manifest, Shard, Split, read_manifest
from shards.order import Order, Plan, SampleOrder
from shards.reader import SplitReader
from shards.shard_set import ShardSet, default_cache
from shards.verify import Verification, verify
from shards.windowed import WindowedOrder
from shards.writer import OutputFolder, Samples, atomic_file, shard_name, write_file, write_manifest, write_shard

__all__ = [
    "BLOCK_SIZES",
    "IMAGE_BYTES",
    "IMAGE_SIZE",
    "Block",
    "ChangedShard",
    "CorruptShard",
    "DrawnOrder",
    "FolderLock",
    "InputError",
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
