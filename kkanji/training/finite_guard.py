"""A gradient that is not finite never reaches the weights, on any rank, and ends the run."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from shards import InputError, Order, Plan, write_file


class FiniteGuard:
    """Checks each step's gradient on the device. All ranks have the same gradient, so they come to the same verdict.

    A fused optimizer on a GPU skips the bad step and all later ones by itself, as it does for a gradient scaler. So no
    step waits for the device, and the host learns of the bad one when it next reads the device anyway. With other
    optimizers, and on a CPU, the host checks every step.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device, samples_of: Callable[[int], str]) -> None:
        """samples_of: a description of the samples of a step, counted from 0, for the error message."""
        self._optimizer, self._samples_of = optimizer, samples_of
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._skips = skips_bad_steps(optimizer, device)

    def check(self, step: int) -> None:
        """Check the gradient before the optimizer's step, counted from 0. May raise as `raise_if_bad`."""
        norm = get_total_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        now_bad = (self._first_bad < 0) & ~torch.isfinite(norm)
        self._first_bad = torch.where(now_bad, step, self._first_bad)
        if self._skips:
            self._optimizer.found_inf = (self._first_bad >= 0).float()  # type: ignore[attr-defined]
        else:
            self.raise_if_bad()

    def raise_if_bad(self) -> None:
        """Wait for the device. Raises InputError that names the first bad step and its samples."""
        bad = int(self._first_bad)
        if bad >= 0:
            found = f"the gradient is not finite, for {self._samples_of(bad)}"
            remedy = "begin a new run with a lower --lr, if need be by --init from a checkpoint of this one"
            raise InputError(f"step {bad + 1}: {found}; the weights are those of step {bad}; {remedy}")


def skips_bad_steps(optimizer: Optimizer, device: torch.device) -> bool:
    """Whether the optimizer skips a step by itself when `found_inf` is set: a fused one does, as for a gradient scaler.

    On a CPU the host checks instead, as it has no device to wait for.
    """
    return device.type != "cpu" and getattr(optimizer, "_step_supports_amp_scaling", False)


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
