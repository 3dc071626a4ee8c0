"""Images in the device's memory: each is brought when a batch first needs it, and read from there ever after.

A set of 140,000 characters takes 0.58 GB. With it on the device, the host sends numbers, labels and augmentation rows,
0.26 kB an image in place of 4.1 kB, and a streamed set is fetched once in a run, whatever its cache holds.
"""

import numpy as np
import torch

from kkanji.config import TrainConfig
from kkanji.data.training_set import RESIDENT_SPLITS
from shards import ShardSet
from shards.format.layout import IMAGE_SIZE


class ResidentImages:
    """The images of a split in the memory of a device, on a CPU in the machine's. They outlive the loaders."""

    def __init__(self, samples: int, device: torch.device) -> None:
        """samples: in the split. Takes the memory at once: 4,096 bytes an image."""
        self.images = torch.empty((samples + 1, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=device)
        """uint8 [samples + 1, 64, 64]. The last one is spare: what a batch is padded with is written there."""
        self.labels = np.empty(samples, np.int64)
        """The model's class numbers [samples], on the host."""
        self.present = np.zeros(samples, bool)
        """Which images are here [samples]: those of batches that a loader has delivered."""

    @property
    def spare(self) -> int:
        """The number of the spare image."""
        return len(self.present)


def resident_images(config: TrainConfig, data: ShardSet, device: torch.device) -> dict[str, ResidentImages]:
    """For each split whose images a resolved config keeps on the device, where they will be. Takes the memory."""
    names = RESIDENT_SPLITS if config.dataset.residence == "device" else ()
    splits = {name: data.manifest.splits[name] for name in names if name in data.manifest.splits}
    return {name: ResidentImages(split.samples, device) for name, split in splits.items()}
