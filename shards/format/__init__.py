"""The bytes of a shard set: tar, blocks, compression, manifest, and how they are written."""
