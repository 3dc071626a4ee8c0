"""The network that a checkpoint holds the weights of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from kkanji.checkpoint import files as checkpoint
from kkanji.classes import ClassMap
from kkanji.config import read_options
from kkanji.models import create_model
from shards import InputError

CLASS_ROWS = ("classifier.weight", "classifier.bias")  # [C, ...]: a row a class


def network_of(state: Mapping[str, Any], classes: int) -> nn.Module:
    """The architecture of a checkpoint's state, its weights not loaded."""
    options = read_options(state["config"])
    return create_model(options["model"], classes, options.get("head", "linear"))  # early runs had but one head


def load_trained(path: Path) -> nn.Module:
    """A checkpoint's network with the weights that are to be used. Raises InputError as `checkpoint.check`."""
    checkpoint.check(path)
    model = network_of(checkpoint.read_state(path), len(checkpoint.read_classes(path)))
    checkpoint.load_model(path, model)
    return model


def initial_weights(path: Path, model: nn.Module, classes: ClassMap) -> None:
    """Put a checkpoint's weights into a model of the same architecture that tells other characters apart.

    A character that the checkpoint does not know keeps what the model has for it. Raises InputError as
    `checkpoint.check`, or if the network is another.
    """
    checkpoint.check(path)
    known = checkpoint.read_classes(path).ids
    rows = [(number, known[point]) for point, number in classes.ids.items() if point in known]
    own, theirs = (list(numbers) for numbers in zip(*rows, strict=True)) if rows else ([], [])
    values = safetensors.torch.load_file(path / checkpoint.MODEL)
    state = model.state_dict()
    for name, value in values.items():
        if name in CLASS_ROWS and name in state:
            values[name] = state[name].clone()
            values[name][own] = value[theirs].to(state[name].dtype)
    try:
        model.load_state_dict(values)
    except RuntimeError as error:
        network = read_options(checkpoint.read_state(path)["config"])["model"]
        raise InputError(f"--init {path}: weights of {network}, which do not fit: {error}") from error
