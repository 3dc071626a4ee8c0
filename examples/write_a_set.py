"""A shard set from NumPy arrays: `python write_a_set.py OUTPUT`, then `kkanji train --data OUTPUT ...`."""

import sys
from pathlib import Path

import numpy as np

from kkanji import write_set

characters = "一二三"
rng = np.random.default_rng(0)


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 64, 64], white ink on black, with as many strokes as their character has, and labels [n]."""
    labels = rng.integers(0, len(characters), count)
    images = np.zeros((count, 64, 64), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[rng.choice(12, label + 1, replace=False) * 5 + 2, 8:56] = 255
    return images, labels


manifest = write_set(Path(sys.argv[1]), {"train": drawn(300), "val": drawn(60)}, characters, name="strokes")
print({name: split.samples for name, split in manifest.splits.items()})
