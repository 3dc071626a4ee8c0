"""How fast shards come from a bucket."""
