"""A shard set as a training sees it: labels and counts, order, decoding, and the DALI graph that feeds the network."""
