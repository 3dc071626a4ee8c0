"""From a checkpoint folder to a network: rebuild its architecture and load its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from kkanji import checkpoint
from kkanji.classes import ClassMap
from kkanji.config import read_options
from kkanji.models import create_model
from shards import InputError

CLASS_ROWS = ("classifier.weight", "classifier.bias")  # [C, ...]: one row for each class


def network_of(state: Mapping[str, Any], classes: int) -> nn.Module:
    """A network of the architecture that a checkpoint's state names, with random weights."""
    options = read_options(state["config"])
    return create_model(options["model"], classes, options.get("head", "linear"))  # early runs recorded no head


def load_trained(path: Path) -> nn.Module:
    """A checkpoint's network with its weights for use. Raises InputError as `checkpoint.check` does."""
    checkpoint.check(path)
    model = network_of(checkpoint.read_state(path), len(checkpoint.read_classes(path)))
    checkpoint.load_model(path, model)
    return model


def initial_weights(path: Path, model: nn.Module, classes: ClassMap) -> None:
    """Load a checkpoint's weights into a model of the same architecture, whose classes may be others.

    The classifier's rows are matched by character. A character that the checkpoint does not know keeps the model's row.
    Raises InputError as `checkpoint.check` does, or if the architectures differ.
    """
    checkpoint.check(path)
    known = checkpoint.read_classes(path).ids
    shared = [point for point in classes.ids if point in known]
    own = [classes.ids[point] for point in shared]
    theirs = [known[point] for point in shared]
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
        raise InputError(f"--init {path}: weights of {network} do not fit this model: {error}") from error
