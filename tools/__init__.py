"""Command lines that turn raw archives into shard sets: python -m tools <combine|split|pack|balance|verify|show|sample>."""
