"""The mean of several checkpoints' weights as one checkpoint: it reads like the mean of their readings, at one's cost.

Wortsman et al., Model soups, ICML 2022, section 2 (uniform soup). It holds for networks that were trained on from the
same weights and stayed near each other; the mean of networks that began apart reads nothing. Batch norm's statistics
are averaged as the weights are, which is right to the same degree.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from kkanji.checkpoint import files as checkpoint
from kkanji.checkpoint.files import CLASSES, MODEL, STATE, write_hashed
from kkanji.config import read_options
from shards import InputError, OutputFolder


def average(paths: Sequence[Path], output: Path, *, overwrite: bool = False) -> None:
    """Write a checkpoint for use of the mean of the others' weights; what else it says of its training is the first's.

    Raises InputError as `checkpoint.check`, and if there are less than two, if they are of different networks or
    characters, or if the output is in use.
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
    state = checkpoint.usable_state(first)
    state["config"] = state["config"] | {"averaged": [str(path.resolve()) for path in others]}
    contents: dict[str, str | bytes] = {
        MODEL: safetensors.torch.save(mean),
        STATE: json.dumps(state, indent=1),
        CLASSES: checkpoint.read_classes(first).to_json(),
    }
    with OutputFolder(output, maker="average", inputs=paths, overwrite=overwrite) as partial:
        write_hashed(partial, contents)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Summed in float32; of a count, such as batch norm's of its batches, the first."""
    first = tensors[0]
    if not first.is_floating_point():
        return first
    return torch.stack([tensor.float() for tensor in tensors]).mean(dim=0).to(first.dtype)


def _check_alike(first: Path, other: Path) -> None:
    one, two = (read_options(checkpoint.read_state(path)["config"]) for path in (first, other))
    kinds = [(config["model"], config.get("head", "linear")) for config in (one, two)]
    if kinds[0] != kinds[1]:
        (model, head), (expected, its_head) = kinds[1], kinds[0]
        raise InputError(f"{other}: {model} with a {head} head, expected {expected} with a {its_head} head as {first}")
    if checkpoint.read_classes(first).identity() != checkpoint.read_classes(other).identity():
        raise InputError(f"{other}: tells other characters apart than {first}; average runs on one set of characters")
