"""The network that a checkpoint holds the weights of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kkanji import checkpoint
from kkanji.models import create_model


def network_of(state: Mapping[str, Any], classes: int) -> nn.Module:
    """The architecture of a checkpoint's state, its weights not loaded."""
    options = state["config"]
    return create_model(options["model"], classes, options.get("head", "linear"))  # early runs had but one head


def load_trained(path: Path) -> nn.Module:
    """A checkpoint's network with the weights that are to be used. Raises InputError as `checkpoint.check`."""
    checkpoint.check(path)
    model = network_of(checkpoint.read_state(path), len(checkpoint.read_classes(path)))
    checkpoint.load_model(path, model)
    return model
