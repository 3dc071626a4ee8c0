"""The optimizers on offer, in their fused forms where there are such."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from timm.optim import Lamb, Muon, muon, param_groups_weight_decay
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from kkanji.config import OptimizerName
from kkanji.environment import has_bfloat16


class Float32Muon(Muon):  # type: ignore[misc]  # timm's carries no types
    """timm's, but orthogonalising in float32, for which it has no option.

    Emulated bfloat16 took 4.2 s a step of `kkanji_efficientnet_fused_s` on a processor without it, float32 0.22 s.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        in_float32 = partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)
        with patch.object(muon, "zeropower_via_newtonschulz", in_float32):
            return super().step(closure)


def create_optimizer(model: nn.Module, name: OptimizerName, *, lr: float, weight_decay: float) -> Optimizer:
    """An optimizer over the model's parameters; norms and biases are not decayed.

    muon: matrices and convolutions move along orthogonalised momentum (Jordan 2024, github.com/KellerJordan/Muon) with
    AdamW's step size; the classifier, norms and biases by AdamW.
    """
    if name == "muon":
        kind = Muon if has_bfloat16(next(model.parameters()).device) else Float32Muon
        return kind(list(_muon_groups(model, weight_decay)), lr=lr, nesterov=True, betas=(0.9, 0.999))
    groups = param_groups_weight_decay(model, weight_decay)
    if name == "adam":
        return Adam(groups, lr=lr, amsgrad=True, fused=True)
    if name == "adamw":
        return AdamW(groups, lr=lr, fused=True)
    if name == "lamb":
        lamb: Optimizer = Lamb(groups, lr=lr)
        return lamb
    return SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)


def _muon_groups(model: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    """One row of the classifier belongs to one class: rows are no directions of one map, so it keeps AdamW."""
    matrices: list[Parameter] = []
    classifier: list[Parameter] = []
    others: list[Parameter] = []
    for name, parameter in model.named_parameters():
        chosen = others if parameter.ndim < 2 else classifier if name.startswith("classifier") else matrices
        chosen.append(parameter)
    yield {"params": matrices, "weight_decay": weight_decay, "use_fallback": False}
    yield {"params": classifier, "weight_decay": weight_decay, "use_fallback": True}
    yield {"params": others, "weight_decay": 0.0, "use_fallback": True}
