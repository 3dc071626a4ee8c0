"""kkanji's packed shards in a stock webdataset pipeline: `python webdataset_pipeline.py TAR ...`."""

import sys

from torch.utils.data import DataLoader

from kkanji import block_pipeline

pipeline = block_pipeline(sys.argv[1:], batch_size=50, seed=0)
counts = [0, 0]
for images, labels in DataLoader(pipeline, batch_size=None):  # uint8 [B, 64, 64], int64 [B]
    counts = [counts[0] + len(labels), counts[1] + images.numel()]
print(f"{counts[0]} images of {counts[1]} pixels")
