"""Batches by torch's DataLoader, without DALI, from a folder or a bucket: `python torch_loader.py SET [WORKERS]`."""

import sys

from torch.utils.data import DataLoader

from kkanji import ImageStream, normalise


def main(location: str, workers: int = 0) -> None:
    """Two epochs in batches of 50."""
    stream = ImageStream(location, "train", batch_size=50, epochs=2)
    for step, (images, labels) in enumerate(DataLoader(stream, batch_size=None, num_workers=workers), start=1):
        pixels = normalise(images)  # float32 [B, 1, 64, 64]
        print(f"step {step} of {len(stream)}: {len(labels)} images, mean {pixels.mean():.3f}, labels {labels[:4]}")


if __name__ == "__main__":  # or workers that are started anew would run it too
    main(sys.argv[1], *map(int, sys.argv[2:]))
