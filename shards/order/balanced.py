"""Balance without copies: the order itself gives each class a number of draws in an epoch.

The samples of a class form a circle, and each epoch takes the next ones in it. So within every epoch, and over all
epochs so far, the draws of any two samples of a class differ by one at most; a class with more samples than draws shows
all of them in turn. The draws of an epoch are then shuffled as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shards.order.permutation import mix, permute
from shards.order.sequential import by_epoch


@dataclass(frozen=True, kw_only=True)
class BalancedOrder:
    """Draws from labelled samples. Memory: 8 bytes for each sample, for the samples sorted by class."""

    labels: NDArray[np.int32]
    """Labels of all samples [n], in stored order."""
    draws: NDArray[np.int64]
    """Draws of each class in an epoch [classes]; 0 for a class without samples."""
    seed: int
    """Seed of the shuffle: equal seeds give equal streams."""

    def __post_init__(self) -> None:
        if self.draws.sum() < 1 or self.draws.min() < 0:
            raise ValueError(f"{self.draws.sum()} draws an epoch; expected at least one, and none below 0")
        if len(self._counts) > len(self.draws) or np.any(self.draws[self._counts == 0] > 0):
            raise ValueError("draws of a class that has no samples, or samples of a class beyond the draws")

    @cached_property
    def samples(self) -> int:
        """Positions in an epoch."""
        return int(self.draws.sum())

    def at(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sample numbers at the stream's positions start..stop-1."""
        parts = (self._within(*part) for part in by_epoch(start, stop, self.samples))
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _within(self, epoch: int, first: int, last: int) -> NDArray[np.int64]:
        positions = np.arange(first, last, dtype=np.uint64)
        numbers = permute(positions, self.samples, key=mix(mix(self.seed) ^ epoch)).astype(np.int64)
        label = np.searchsorted(self._last_draw, numbers, side="right")
        # With it a number counts on from the draws of the class before this epoch, so that no sample is left out.
        offset = (epoch + 1) * self.draws - self._last_draw
        turn = (numbers + offset[label]) % self._counts[label]
        return np.take(self._by_class, self._first_of_class[label] + turn)

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.bincount(self.labels, minlength=len(self.draws))

    @cached_property
    def _last_draw(self) -> NDArray[np.int64]:
        return np.cumsum(self.draws)

    @cached_property
    def _first_of_class(self) -> NDArray[np.int64]:
        return np.cumsum(self._counts) - self._counts

    @cached_property
    def _by_class(self) -> NDArray[np.int64]:
        """Sample numbers, class after class."""
        return np.argsort(self.labels, kind="stable")


def draws_per_class(samples: Sequence[int], draws: int, *, exponent: float = 0.0) -> NDArray[np.int64]:
    """Draws of each class in an epoch, in proportion to its samples ** exponent, and one at least if it has samples.

    samples: of each class. draws: the mean over the classes that have samples. exponent 0: the same number for every
    class; 1: in proportion to the samples.
    """
    counts = np.array(samples, np.int64)
    weights = np.where(counts > 0, counts.astype(np.float64) ** exponent, 0.0)
    total = draws * np.count_nonzero(counts)
    return np.where(counts > 0, np.maximum(np.rint(weights / weights.sum() * total), 1), 0).astype(np.int64)
