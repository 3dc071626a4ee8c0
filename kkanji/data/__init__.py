"""From a shard set to batches on the device: labels and counts, order, decoding, and the DALI graph."""
