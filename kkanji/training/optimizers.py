"""The optimizers on offer, in their fused forms where there are such."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from timm.optim import Lamb, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from kkanji.config import OptimizerName
from kkanji.environment import has_bfloat16
from kkanji.timm_models import class_rows_of

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
        lamb: Optimizer = Lamb(groups, lr=lr, foreach=True)
        return lamb
    return SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)


def _muon_groups(model: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Matrices, the classifier, and norms and biases.

    A row of the classifier belongs to one class: its rows are no directions of one map, so NAdamW updates it.
    """
    rows = class_rows_of(model)
    matrices: list[Parameter] = []
    classifier: list[Parameter] = []
    others: list[Parameter] = []
    for name, parameter in model.named_parameters():
        chosen = others if parameter.ndim < 2 else classifier if name in rows else matrices
        chosen.append(parameter)
    yield {"params": matrices, "weight_decay": weight_decay, "use_fallback": False}
    yield {"params": classifier, "weight_decay": weight_decay, "use_fallback": True}
    yield {"params": others, "weight_decay": 0.0, "use_fallback": True}


class Muon(Optimizer):
    """Matrices and convolutions move along their orthogonalised momentum, all else by NAdamW.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon. It computes what `timm.optim.Muon` does with nesterov=True;
    that one has no option for the precision in which it orthogonalises, and takes one matrix at a time.

    Every rank does all of it: for b0 that is 14.6 billion operations a step, of 20,000 billion for a global batch of
    50,000, and 56 MB of state. To divide it among ranks would add an exchange of all weights to each step.
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
        for (_, longer), alike in groupby(pairs, key=lambda pair: _sides(pair[0])):
            owners, chosen = zip(*alike, strict=True)
            found = orthogonalise([_matrix(update) for update in chosen], self._dtype)
            laid_out = [_like(matrix, owner) for matrix, owner in zip(found, owners, strict=True)]
            torch._foreach_add_(owners, laid_out, alpha=-lr * ADAMW_RMS * longer**0.5)

    def _step_others(self, parameters: list[Tensor], lr: float) -> None:
        """AdamW with Nesterov momentum (Dozat 2016), as timm has it."""
        gradients = [_gradient(parameter) for parameter in parameters]
        means, squares = self._states(parameters, "exp_avg"), self._states(parameters, "exp_avg_sq")
        steps = self._steps(parameters)
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

    def _steps(self, parameters: list[Tensor]) -> list[Tensor]:
        """The number of steps of each parameter, on the CPU."""
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros(())
        return [self.state[parameter]["step"] for parameter in parameters]

    def _states(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """A tensor of state for each parameter, in its shape and memory format."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]


def orthogonalise(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Matrices [rows, columns] of equal shorter and longer sides with all singular values near 1.

    By Newton-Schulz iterations in this dtype, over all matrices at once. The results are float32.
    """
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    # The products are over the shorter side.
    wide = [matrix.mT if turned else matrix for matrix, turned in zip(matrices, tall, strict=True)]
    values = torch.stack(wide).to(dtype)
    values.div_(values.norm(2, dim=(1, 2), keepdim=True).clamp_(min=SMALLEST_NORM))
    for a, b, c in QUINTIC:
        gram = values @ values.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        values = torch.baddbmm(values, polynomial, values, beta=a)
    results = values.float()
    turned_back = results.mT.contiguous() if any(tall) else results
    return [pair[turned] for *pair, turned in zip(results, turned_back, tall, strict=True)]


def _matrix(values: Tensor) -> Tensor:
    """The matrix that a convolution is: outputs by places and inputs, as channels_last has them in memory."""
    return values.movedim(1, -1).flatten(1)


def _like(matrix: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of `_matrix` for a parameter."""
    return matrix.view(parameter.movedim(1, -1).shape).movedim(-1, 1)


def _sides(parameter: Tensor) -> tuple[int, int]:
    """The shorter and the longer side of the matrix that a parameter is."""
    shorter, longer = sorted((parameter.shape[0], parameter[0].numel()))
    return shorter, longer


def _is_matrix(parameter: Tensor) -> bool:
    """Whether a weight has directions to orthogonalise; a depthwise convolution, with one input each, has none."""
    shorter, longer = _sides(parameter)
    degenerate = 1 in parameter.shape[:2]
    return not degenerate and shorter >= LEAST_SIDE and longer <= MOST_ASPECT * shorter


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # noqa: S101  (parameters without one are skipped)
    return parameter.grad
