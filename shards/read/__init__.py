"""Samples by their numbers, from mapped shards."""
