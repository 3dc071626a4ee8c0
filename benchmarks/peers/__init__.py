"""Ways to feed images, one a module, each in a process of its own: ours, the limits, and other libraries.

A module reads with its library at the top, so that one that is not installed says so when it is imported. It has
`write(job)`, unless it reads the images as they come, and one or both of

- `local(job)`: opens its files on disk and returns a function that begins an epoch: an iterator of batches;
- `bucket(job)`: begins a first epoch from the object store, with an empty cache.

Modules of other libraries import nothing of kkanji: they may run in another environment, whose NumPy is older
(mosaicml-streaming wants one below 2.2). `make peers` makes it from requirements.txt; what is not there is skipped by
name.
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
    """[B, 64, 64] (or with a channel axis), None where bytes were only moved."""
    labels: Any
    """[B]: the numbers of the images, so that it can be seen which ones came."""


Epoch = Callable[[], Iterator[Batch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a peer is asked to read."""

    source: str
    """Folder with images.npy, uint8 [N, 64, 64]; an image's label is its number."""
    folder: str
    """The peer's own files, written by its `write`."""
    batch: int
    """Images in a batch."""
    threads: int
    """Threads, or worker processes."""
    shard_bytes: int = 1 << 26
    """Size of the peer's files, for those that can choose; 64 MB is the default of MosaicML and LitData."""
    url: str = ""
    """Where the same files lie in the object store, `s3://bucket/prefix`; endpoint and keys are in the environment."""
    public_url: str = ""
    """The same by plain HTTP, for whoever has no keys."""
    cache: str = ""
    """An empty folder for fetched files."""

    def images(self) -> NDArray[np.uint8]:
        """The images, mapped."""
        images: NDArray[np.uint8] = np.load(Path(self.source) / "images.npy", mmap_mode="r")
        return images

    def files(self, suffix: str) -> list[Path]:
        """The peer's files with this suffix, by name."""
        return sorted(Path(self.folder).glob(f"*{suffix}"))
