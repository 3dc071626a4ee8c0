"""An exponential moving average of a model's weights: what is evaluated and kept, smoother than any one step's."""

import copy

import torch
from torch import Tensor, nn

RISE = 10  # early on the average forgets faster: weights from the start are not worth keeping


class WeightAverage:
    """The average of a model's parameters and batch statistics; each step's weight halves every `half_life` images."""

    def __init__(self, model: nn.Module, half_life: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._half_life = half_life
        self._averages, self._values = _values(self.model), _values(model)

    def follows(self, model: nn.Module) -> bool:
        """Whether the tensors averaged are this model's own, not ones that it had before it was moved or wrapped."""
        return all(ours is own for ours, own in zip(self._values, _values(model), strict=True))

    @torch.no_grad()
    def update(self, images: int, seen: int) -> None:
        """After a step of so many images, `seen` with it."""
        kept = min(0.5 ** (images / self._half_life), seen / (seen + RISE * images))
        torch._foreach_lerp_(self._averages, self._values, 1 - kept)


def _values(model: nn.Module) -> list[Tensor]:
    """Everything with a fraction; a counter of batches has none."""
    return [value for value in model.state_dict(keep_vars=True).values() if value.is_floating_point()]
