"""Checkpoints on disk: written, found, loaded, averaged, exported, and what they descend from."""
