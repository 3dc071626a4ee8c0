"""Commands that turn raw archives into shard sets: `python -m tools <command>`."""
