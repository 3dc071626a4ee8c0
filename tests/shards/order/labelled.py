"""Balanced orders over given labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import BalancedOrder
from shards.order.balanced import count_labels, sort_by_class


def balanced(labels: NDArray[np.integer[Any]], draws: NDArray[np.int64], seed: int = 0) -> BalancedOrder:
    """An order that draws so often from each class of these labels."""
    counts = count_labels(labels, len(draws))
    return BalancedOrder(by_class=sort_by_class(labels, counts), counts=counts, draws=draws, seed=seed)


def labels_of(order: BalancedOrder) -> NDArray[np.int64]:
    """The label of each sample [n]."""
    labels = np.empty(len(order.by_class), np.int64)
    labels[order.by_class] = np.repeat(np.arange(len(order.counts)), order.counts)
    return labels
