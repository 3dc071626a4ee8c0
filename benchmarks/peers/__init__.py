"""Peers: ways to feed images, each a module that runs in a process of its own: ours, the limits, and other libraries.

A module imports its library at the top, so that a missing one shows when the module is imported. It has `write(job)`,
unless it reads the source images directly, and one or both of

- `local(job)`: opens its files on disk, and returns a function that starts an epoch, an iterator of batches
- `bucket(job)`: starts a first epoch from the object store, with an empty cache

Modules of other libraries import nothing from kkanji, as they may run in another environment with an older NumPy
(mosaicml-streaming needs one below 2.2). `make peers` creates it from requirements.txt. Libraries that it lacks are
reported as skipped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 64
BLOCK = 250  # images in a block of our packed files
WINDOW = 2  # shards whose images are mixed when streaming


class Batch(NamedTuple):
    """One batch in host memory: arrays or tensors."""

    images: Any
    """Images [B, 64, 64], or with a channel axis; None if bytes were only moved."""
    labels: Any
    """Numbers of the images in the source, [B], by which the images are checked."""


Epoch = Callable[[], Iterator[Batch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The images that a peer reads, and how."""

    source: str
    """Folder with images.npy, uint8 [N, 64, 64]."""
    folder: str
    """Folder of the peer's own files, which its `write` fills."""
    batch: int
    """Images in a batch."""
    threads: int
    """Number of threads or of worker processes."""
    shard_bytes: int = 1 << 26
    """Size of the peer's files, if it can be chosen. 64 MB by default, as in MosaicML and LitData."""
    classes: int = 0
    """Classes of the packed set; 0, the default, gives each image one of its own, so that its label is its number."""
    url: str = ""
    """Prefix of the same files in the object store, `s3://bucket/prefix`. Endpoint and keys are in the environment."""
    public_url: str = ""
    """Prefix of the same files over plain HTTP, for peers that cannot send keys."""
    cache: str = ""
    """Empty folder for downloaded files."""

    def images(self) -> NDArray[np.uint8]:
        """The source images, mapped into memory."""
        images: NDArray[np.uint8] = np.load(Path(self.source) / "images.npy", mmap_mode="r")
        return images

    def files(self, suffix: str) -> list[Path]:
        """The peer's files with this suffix, sorted by name."""
        return sorted(Path(self.folder).glob(f"*{suffix}"))
