"""A gradient that is not finite ends the run, on all ranks, before anything that follows from it is logged or saved.

One that is longer than it may be is shortened here too: both need its norm.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from shards import InputError, Order, Plan, write_file


class FiniteGuard:
    """Notes the first gradient that is not finite, on the device, so that no step waits for it.

    All ranks have the same gradient, so they come to the same verdict. The host asks for it when it reads the device
    anyway, and before each evaluation and checkpoint: weights that a bad gradient reached are never used.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        device: torch.device,
        samples_of: Callable[[int], str],
        *,
        most: float = 0.0,
    ) -> None:
        """samples_of: a description of the samples of a step, counted from 0, for the error message.

        most: the norm to which a longer gradient is shortened; 0 shortens none.
        """
        self._parameters, self._samples_of, self._most = list(parameters), samples_of, most
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def check(self, step: int) -> None:
        """Note whether the gradient of a step, counted from 0, is finite, and shorten one that is too long."""
        norm = get_total_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        now_bad = (self._first_bad < 0) & ~torch.isfinite(norm)
        self._first_bad = torch.where(now_bad, step, self._first_bad)
        if self._most:
            clip_grads_with_norm_(self._parameters, self._most, norm)

    def raise_if_bad(self) -> None:
        """Wait for the device. Raises InputError that names the first bad step and its samples."""
        bad = int(self._first_bad)
        if bad >= 0:
            found = f"the gradient is not finite, for {self._samples_of(bad)}"
            remedy = "begin a new run with a lower --lr, if need be by --init from a checkpoint of this one"
            raise InputError(f"step {bad + 1}: {found}; nothing after step {bad} was saved; {remedy}")


class SampleReport:
    """Describes the samples of a step and writes their numbers to not-finite.json, for a look at them."""

    def __init__(self, order: Order, plan: Plan, folder: Path, *, write: bool) -> None:
        """folder: of the run. write: whether this process is the one to write."""
        self._order, self._plan, self._write = order, plan, write
        self._path = folder / "not-finite.json"

    def __call__(self, step: int) -> str:
        """step: counted from 0."""
        numbers = self._order.at(*self._plan.batch(step)).tolist()
        if self._write:
            write_file(self._path, json.dumps({"step": step + 1, "split": "train", "samples": numbers}) + "\n")
        return f"{len(numbers):,} samples of split train, {', '.join(map(str, numbers[:3]))} ... (all: {self._path})"
