"""Streaming from an object store: how fast shards arrive."""
