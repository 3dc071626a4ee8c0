"""Bytes and order of an image set: layout, manifest, writer, random-access reader, epoch order, verification.

Nothing here knows what an image means. Imports NumPy and the standard library only (no torch, no DALI).
"""

from shards.errors import ChangedShard, CorruptShard, InputError, MissingShard, ShardError, StorageError
from shards.layout import BLOCK_SIZES, IMAGE_BYTES, IMAGE_SIZE
from shards.manifest import Block, Manifest, Shard, Split, read_manifest
from shards.order import Plan, SampleOrder
from shards.reader import ShardSet, SplitReader
from shards.verify import Verification, verify
from shards.writer import OutputFolder, Samples, shard_name, write_file, write_manifest, write_shard

__all__ = [
    "BLOCK_SIZES",
    "IMAGE_BYTES",
    "IMAGE_SIZE",
    "Block",
    "ChangedShard",
    "CorruptShard",
    "InputError",
    "Manifest",
    "MissingShard",
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
    "read_manifest",
    "shard_name",
    "verify",
    "write_file",
    "write_manifest",
    "write_shard",
]
