"""Batches for torch's own DataLoader, where there is no DALI: a split in an exact order, local or streamed."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from kkanji.data.training_set import open_set
from shards import Order, Plan, SampleOrder
from shards.order.sequential import numbers_of


class ImageStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of a split: images uint8 [B, 1, 64, 64] (`kkanji.normalise` makes floats of them), labels int64 [B].

    Give it to `DataLoader(stream, batch_size=None, num_workers=n)`: with any number of workers the batches come in the
    same order. Of several ranks each has its part of each global batch, and a run resumes at any step.
    """

    def __init__(
        self,
        location: str | Path,
        split: str = "train",
        *,
        batch_size: int,
        epochs: int = 1,
        order: Order | None = None,
        first_step: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """location: a folder or a URL; each worker opens it for itself. batch_size: images of a global batch.

        order: of the split's images; None shuffles all of them anew in each epoch, by seed 0. first_step: global
        batches to leave out. Raises: InputError or MissingShard if there is no such set or split.
        """
        super().__init__()
        self._location, self._split = location, split
        self.order: Order = order or SampleOrder(samples=open_set(location).split(split).samples, seed=0)
        self.plan = Plan(samples=self.order.samples, epochs=epochs, batch_size=batch_size)
        self._first_step, self._rank, self._ranks = first_step, rank, ranks

    def __len__(self) -> int:
        """Batches to come."""
        return self.plan.steps - self._first_step

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        steps = range(self._first_step + number, self.plan.steps, workers)
        spans = (self.plan.rank_span(step, self._rank, self._ranks) for step in steps)
        reader = open_set(self._location).split(self._split)
        for numbers in reader.follow(numbers_of(self.order, spans)):
            samples = reader.gather(numbers, sources=False)
            yield torch.from_numpy(samples.images)[:, None], torch.from_numpy(samples.labels).long()
