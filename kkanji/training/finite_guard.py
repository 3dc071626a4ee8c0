"""A gradient that is not finite never reaches the weights, on any rank, and ends the run."""

from collections.abc import Callable

import torch
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from shards import InputError


class FiniteGuard:
    """Checks each step's gradient on the device. Ranks have the same gradient, so they come to the same verdict.

    A fused optimizer skips the step by itself (as it does for a gradient scaler), and so every later one: nothing waits
    for the device, and the host learns of it when it next reads the device anyway. Others, and CPUs, are asked at once.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device, samples_of: Callable[[int], str]) -> None:
        """samples_of: what to say of the samples of a step, counted from 0."""
        self._optimizer, self._samples_of = optimizer, samples_of
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._skips = skips_bad_steps(optimizer, device)

    def check(self, step: int) -> None:
        """Before the optimizer's step number `step`, counted from 0."""
        norm = get_total_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        now_bad = (self._first_bad < 0) & ~torch.isfinite(norm)
        self._first_bad = torch.where(now_bad, step, self._first_bad)
        if self._skips:
            self._optimizer.found_inf = (self._first_bad >= 0).float()  # type: ignore[attr-defined]
        else:
            self.raise_if_bad()

    def raise_if_bad(self) -> None:
        """Waits for the device. Raises InputError naming the step."""
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
