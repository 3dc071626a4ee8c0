"""Samples in memory."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Samples(NamedTuple):
    """n samples: images uint8 [n, 64, 64], labels [n], sources uint64 [n] (the original each image was made from)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer]
    sources: NDArray[np.uint64]
