"""The optimizers on offer, in their fused forms where there are such."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from timm.optim import Lamb, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from kkanji.config import OptimizerName
from kkanji.environment import has_bfloat16

# Newton-Schulz: five steps towards singular values of 1, github.com/KellerJordan/modded-nanogpt, train_gpt_medium.py.
QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
SMALLEST_NORM = 1e-7  # of a matrix that is divided by its norm
MOMENTUM, BETAS, EPSILON = 0.95, (0.9, 0.999), 1e-7
# Orthogonalised updates have a root mean square of 1 / sqrt(longer side); 0.2 is what AdamW's updates typically have.
# Liu et al., Muon is scalable for LLM training, 2025, arXiv:2502.16982, section 2.2.
ADAMW_RMS = 0.2
LEAST_SIDE, MOST_ASPECT = 4, 128  # of a matrix that is worth orthogonalising; the limits of timm 1.0.31


def create_optimizer(model: nn.Module, name: OptimizerName, *, lr: float, weight_decay: float) -> Optimizer:
    """An optimizer over the model's parameters; norms and biases are not decayed."""
    if name == "muon":
        # Emulated bfloat16 took 4.2 s a step of kkanji_efficientnet_fused_s on a processor without it, float32 0.22 s.
        able = has_bfloat16(next(model.parameters()).device)
        return Muon(_muon_groups(model, weight_decay), lr=lr, dtype=torch.bfloat16 if able else torch.float32)
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
    """Matrices, the classifier, and norms and biases.

    A row of the classifier belongs to one class: its rows are no directions of one map, so NAdamW updates it.
    """
    matrices: list[Parameter] = []
    classifier: list[Parameter] = []
    others: list[Parameter] = []
    for name, parameter in model.named_parameters():
        chosen = others if parameter.ndim < 2 else classifier if name.startswith("classifier") else matrices
        chosen.append(parameter)
    yield {"params": matrices, "weight_decay": weight_decay, "use_fallback": False}
    yield {"params": classifier, "weight_decay": weight_decay, "use_fallback": True}
    yield {"params": others, "weight_decay": 0.0, "use_fallback": True}


class Muon(Optimizer):
    """Matrices and convolutions move along their orthogonalised momentum, all else by NAdamW.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon. It computes what `timm.optim.Muon` does with nesterov=True;
    that one has no option for the precision in which it orthogonalises, and takes one matrix at a time.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, dtype: torch.dtype) -> None:
        """groups: with `weight_decay` and `use_fallback`, which has NAdamW update all of a group.

        dtype: of the orthogonalisation.
        """
        super().__init__(groups, {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step. closure: not supported."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        for group in self.param_groups:
            present: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if present:
                torch._foreach_mul_(present, 1 - group["lr"] * group["weight_decay"])
            matrices = [parameter for parameter in present if not group["use_fallback"] and _is_matrix(parameter)]
            chosen = {id(parameter) for parameter in matrices}
            others = [parameter for parameter in present if id(parameter) not in chosen]
            if matrices:
                self._step_matrices(matrices, group["lr"])
            if others:
                self._step_others(others, group["lr"])

    def _step_matrices(self, parameters: list[Tensor], lr: float) -> None:
        gradients = [_gradient(parameter) for parameter in parameters]
        momenta = self._states(parameters, "momentum_buffer")
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov: a step ahead of the momentum
        # One batched product for all matrices of a shape: a network has many, and a GPU is idle with one at a time.
        pairs = sorted(zip(parameters, updates, strict=True), key=lambda pair: _sides(pair[0]))
        for (rows, columns), alike in groupby(pairs, key=lambda pair: _sides(pair[0])):
            owners, matrices = zip(*alike, strict=True)
            stacked = torch.stack([matrix.reshape(rows, columns) for matrix in matrices])
            step_size = lr * ADAMW_RMS * max(rows, columns) ** 0.5
            for owner, update in zip(owners, orthogonalise(stacked, self._dtype), strict=True):
                owner.add_(update.reshape(owner.shape), alpha=-step_size)

    def _step_others(self, parameters: list[Tensor], lr: float) -> None:
        """AdamW with Nesterov momentum (Dozat 2016), as timm has it."""
        gradients = [_gradient(parameter) for parameter in parameters]
        means, squares = self._states(parameters, "exp_avg"), self._states(parameters, "exp_avg_sq")
        steps = [self.state[parameter].setdefault("step", torch.zeros(())) for parameter in parameters]
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        done = float(steps[0])
        step_size = lr / (1 - BETAS[0] ** done)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, (1 - BETAS[1] ** done) ** 0.5)
        torch._foreach_add_(denominators, EPSILON)
        ahead = torch._foreach_lerp(means, gradients, 1 - BETAS[0])
        torch._foreach_addcdiv_(parameters, ahead, denominators, -step_size)

    def _states(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """A tensor of state for each parameter, in its shape and memory format."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices [n, rows, columns] with all singular values near 1, by Newton-Schulz iterations in this dtype."""
    values = matrices.to(dtype, copy=True)
    tall = values.size(1) > values.size(2)
    if tall:  # the products below are over the shorter side
        values = values.mT
    values.div_(values.norm(2, dim=(1, 2), keepdim=True).clamp_(min=SMALLEST_NORM))
    values = values.contiguous()
    for a, b, c in QUINTIC:
        gram = values @ values.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        values = torch.baddbmm(values, polynomial, values, beta=a)
    return values.mT if tall else values


def _sides(parameter: Tensor) -> tuple[int, int]:
    """Of the matrix that a convolution is: outputs by inputs and their places."""
    return parameter.shape[0], parameter[0].numel()


def _is_matrix(parameter: Tensor) -> bool:
    """Whether a weight has directions to orthogonalise; a depthwise convolution, with one input each, has none."""
    shorter, longer = sorted(_sides(parameter))
    degenerate = 1 in parameter.shape[:2]
    return not degenerate and shorter >= LEAST_SIDE and longer <= MOST_ASPECT * shorter


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # noqa: S101  (parameters without one are skipped)
    return parameter.grad
