"""Predict characters from image files, without a shard set."""
