"""Samples in memory."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Samples(NamedTuple):
    """Several samples in memory."""

    images: NDArray[np.uint8]
    """Pixels [n, 64, 64]."""
    labels: NDArray[np.integer]
    """Class numbers [n]."""
    sources: NDArray[np.uint64]
    """The original that each image was made from [n]."""
