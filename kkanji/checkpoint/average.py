"""Average the weights of several checkpoints into one: about as accurate as their ensemble, at the cost of one network.

Wortsman et al., Model soups, ICML 2022, section 2 (uniform soup). It works for networks that were fine-tuned from the
same weights and stayed close to each other. The mean of independently initialised networks predicts nothing. Batch
norm's running statistics are averaged like the weights, an approximation that holds under the same condition.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from kkanji import checkpoint
from kkanji.checkpoint import CLASSES, MODEL, STATE, write_hashed
from kkanji.config import read_options
from shards import InputError, OutputFolder


def average(paths: Sequence[Path], output: Path, *, overwrite: bool = False) -> None:
    """Write a checkpoint with the mean of the weights, for evaluation and prediction.

    It takes its options and other state from the first checkpoint. Raises InputError as `checkpoint.check` does, and if
    there are fewer than two checkpoints, if their architectures or characters differ, or if the output is in use.
    """
    if len(paths) < 2:
        raise InputError(f"--checkpoints: {len(paths)}, expected two or more")
    for path in paths:
        checkpoint.check(path)
    first, *others = paths
    for other in others:
        _check_alike(first, other)
    weights = [safetensors.torch.load_file(path / MODEL) for path in paths]
    mean = {name: _mean([tensors[name] for tensors in weights]) for name in weights[0]}
    state = {
        name: value for name, value in checkpoint.usable_state(first).items() if name != "temperature"
    }  # of its own
    # The first may be a mean itself: what it was made of is behind these weights too.
    behind = [*read_options(state["config"]).get("averaged", ()), *(str(path.resolve()) for path in others)]
    state["config"] = state["config"] | {"averaged": list(dict.fromkeys(behind))}
    contents: dict[str, str | bytes] = {
        MODEL: safetensors.torch.save(mean),
        STATE: json.dumps(state, indent=1),
        CLASSES: checkpoint.read_classes(first).to_json(),
    }
    with OutputFolder(output, maker="average", inputs=paths, overwrite=overwrite) as partial:
        write_hashed(partial, contents)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean, summed in float32. Of counters, such as batch norm's number of batches, the first is kept."""
    first = tensors[0]
    if not first.is_floating_point():
        return first
    return torch.stack([tensor.float() for tensor in tensors]).mean(dim=0).to(first.dtype)


def _check_alike(first: Path, other: Path) -> None:
    expected, found = _architecture(first), _architecture(other)
    if found != expected:
        raise InputError(f"{other}: {found}; expected {expected} as in {first}")
    if checkpoint.read_classes(first).identity() != checkpoint.read_classes(other).identity():
        raise InputError(f"{other}: has other classes than {first}; average checkpoints with the same characters")


def _architecture(path: Path) -> str:
    config = read_options(checkpoint.read_state(path)["config"])
    return f"{config['model']} with a {config.get('head', 'linear')} head"
