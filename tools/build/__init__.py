"""Writing shard sets: packing, shared outputs, worker processes, offline augmentation, third-party tars."""
