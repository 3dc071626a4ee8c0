"""An exponential moving average of a model's weights: smoother than any one step's, so it is evaluated and kept."""

import copy

import torch
from torch import Tensor, nn

RISE = 10  # early on the average forgets faster: weights from the start are not worth keeping


class NoAverage:
    """The average of a run that keeps the trained weights themselves."""

    model: None = None

    def load(self, model: nn.Module) -> None:
        """Do nothing."""

    def follows(self, model: nn.Module) -> bool:  # noqa: ARG002
        """True: there is nothing that could be of other tensors."""
        return True

    def update(self, images: int, seen: int) -> None:
        """Do nothing."""


class WeightAverage:
    """The average of a model's parameters and batch statistics; a step's weight halves every `half_life` images."""

    def __init__(self, model: nn.Module, half_life: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._half_life = half_life
        self._averages, self._values = _values(self.model), _values(model)

    def load(self, model: nn.Module) -> None:
        """Begin again with a model's weights."""
        self.model.load_state_dict(model.state_dict())

    def follows(self, model: nn.Module) -> bool:
        """Whether the averaged tensors are this model's own. Moving or wrapping a model may replace its tensors."""
        return all(ours is own for ours, own in zip(self._values, _values(model), strict=True))

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """Take in the weights after a step. images: of the step. seen: of all steps up to and with it."""
        kept = min(0.5 ** (images / self._half_life), seen / (seen + RISE * images))
        torch._foreach_lerp_(self._averages, self._values, 1 - kept)


def create_average(model: nn.Module, half_life: float) -> WeightAverage | NoAverage:
    """The average of a model's weights; half_life: in images, 0 for none."""
    return WeightAverage(model, half_life) if half_life else NoAverage()


def _values(model: nn.Module) -> list[Tensor]:
    """All floating-point tensors; batch norm's integer counter of batches has no mean."""
    return [value for value in model.state_dict(keep_vars=True).values() if value.is_floating_point()]
