"""Moving averages: of the weights over steps, and of batch statistics over the micro-batches of all ranks."""

import copy

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from kkanji.training.schedule import Part

RISE = 10  # early on the average forgets faster: weights from the start are not worth keeping


class NoAverage:
    """The average of a run that keeps the trained weights themselves."""

    model: None = None
    tensors: tuple[Tensor, ...] = ()

    def load(self, model: nn.Module) -> None:
        """Do nothing."""

    def update(self, images: int, seen: int) -> None:
        """Do nothing."""


class WeightAverage:
    """The average of a model's parameters and batch statistics; a step's weight halves every `half_life` images."""

    def __init__(self, model: nn.Module, half_life: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._half_life = half_life
        self._averages, self.tensors = _values(self.model), _values(model)

    def load(self, model: nn.Module) -> None:
        """Begin again with a model's weights."""
        self.model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Take in the weights after a step. images: of the step. seen: of all steps up to and with it."""
        kept = min(0.5 ** (images / self._half_life), seen / (seen + RISE * images))
        torch._foreach_lerp_(self._averages, self.tensors, 1 - kept)


def create_average(model: nn.Module, half_life: float) -> WeightAverage | NoAverage:
    """The average of a model's weights; half_life: in images, 0 for none."""
    return WeightAverage(model, half_life) if half_life else NoAverage()


def _values(model: nn.Module) -> list[Tensor]:
    """All floating-point tensors; batch norm's integer counter of batches has no mean."""
    return [value for value in model.state_dict(keep_vars=True).values() if value.is_floating_point()]


class BatchStatistics:
    """The moving averages of batch normalization, of a network that several ranks train: those of one process.

    A process moves an average r by every micro-batch: r becomes (1-m) r + m s, with momentum m and its statistic s.
    Of several ranks each moves it by its own micro-batches of a step, from 0 but for the rank that has the first one,
    and lets it decay for those that come after its own. The sum over the ranks is then what one process would have, and
    all ranks have it after every step: any of them can evaluate or save.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        """network: after `accelerator.prepare`. Raises ValueError if a layer averages without momentum."""
        layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
        if any(layer.momentum is None for layer in layers):
            raise ValueError("batch normalization with momentum None; expected a number")
        buffers = [(buffer, 1 - (layer.momentum or 0.0)) for layer in layers for buffer in layer.buffers()]
        self.tensors = [buffer for buffer, _ in buffers if buffer.is_floating_point()]
        self._counters = [buffer for buffer, _ in buffers if not buffer.is_floating_point()]
        # Of an average, when a micro-batch moves it; networks of timm's have layers of several momenta.
        self._kept = [kept for buffer, kept in buffers if buffer.is_floating_point()]
        self._accelerator = accelerator

    def begin(self, part: Part) -> None:
        """Before a rank's first micro-batch of a step."""
        if self.tensors and (part.idle or part.before):
            torch._foreach_zero_(self.tensors)

    def end(self, part: Part) -> None:
        """After a rank's last micro-batch of a step. All ranks call it: they exchange their sums."""
        if self._accelerator.num_processes == 1 or not self.tensors:
            return
        if part.idle:  # what it trained on is another rank's
            torch._foreach_zero_(self.tensors)
        torch._foreach_mul_(self.tensors, [kept**part.behind for kept in self._kept])
        sums = self._accelerator.reduce(torch.cat([value.flatten() for value in self.tensors]), reduction="sum")
        pairs = zip(sums.split([value.numel() for value in self.tensors]), self.tensors, strict=True)
        torch._foreach_copy_(self.tensors, [value.view_as(own) for value, own in pairs])
        torch._foreach_add_(self._counters, part.batch - len(part.spans))
