"""From a checkpoint folder to a network: rebuild its architecture and load its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kkanji import checkpoint
from kkanji.checkpoint.plain_network import PlainNetwork, can_build
from kkanji.classes import ClassMap
from kkanji.config import Head, read_options
from shards import InputError

USE_ANOTHER = "use another checkpoint"
SHOWN = 160  # characters of another program's message, or of a name, that ours quotes


def network_of(state: Mapping[str, Any], classes: int) -> nn.Module:
    """A network of the architecture that a checkpoint's state names, with random weights. Raises InputError."""
    options = read_options(state.get("config", {}))
    head = options.get("head", "linear")  # early runs recorded no head
    if head not in get_args(Head):
        raise InputError(f"a checkpoint with head {head[:SHOWN]!r}; expected {' or '.join(get_args(Head))}")
    from kkanji.models import create_model  # imports timm, which takes seconds

    return create_model(network_name(state), classes, head)


def load_trained(path: Path) -> nn.Module:
    """A checkpoint's network with its weights for use.

    Raises InputError as `checkpoint.check` does, if the weights are not those of the network and the classes that the
    folder names, or if one of them is not a number.
    """
    from kkanji.models import is_ours
    from kkanji.timm_models import class_rows

    checkpoint.check(path)
    classes = len(checkpoint.read_classes(path))
    weights, state = read_weights(path), checkpoint.read_state(path)
    name = network_name(state)
    rows = len(weights.get(class_rows(name)[0], ()))
    if rows != classes:  # before a network of so many classes takes memory
        raise InputError(f"{path}: weights for {rows:,} classes, {classes:,} in index.json; {USE_ANOTHER}")
    if not is_ours(name):  # timm has networks of any size: first without memory
        with torch.device("meta"):
            _fill(network_of(state, classes), {key: value.to("meta") for key, value in weights.items()}, str(path))
    model = network_of(state, classes)
    _fill(model, weights, f"{path}: weights")
    return model


def load_to_predict(path: Path) -> nn.Module:
    """As `load_trained`, a network that cannot be trained: without the seconds of importing timm, if that is possible.

    What it gives is the same, bit for bit.
    """
    checkpoint.check(path)
    weights, classes = read_weights(path), len(checkpoint.read_classes(path))
    options = read_options(checkpoint.read_state(path).get("config", {}))
    name = options.get("model", "")
    if can_build(name, options.get("head", "linear"), weights, classes):
        return PlainNetwork(name, weights)
    return load_trained(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, to use or to begin with.

    Raises InputError if one is not a number."""
    try:
        weights = safetensors.torch.load_file(path / checkpoint.MODEL)
    except (SafetensorError, RuntimeError, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path / checkpoint.MODEL}: {str(error)[:SHOWN]}; {USE_ANOTHER}") from error
    odd = next((name for name, value in weights.items() if not value.isfinite().all()), None)
    if odd:
        raise InputError(f"{path / checkpoint.MODEL}: {odd[:SHOWN]!r} holds what is not a number; {USE_ANOTHER}")
    return weights


def initial_weights(path: Path, model: nn.Module, classes: ClassMap) -> None:
    """Load a checkpoint's weights into a model of the same architecture, whose classes may be others.

    The classifier's rows are matched by character. A character that the checkpoint does not know keeps the model's row.
    Raises InputError as `load_trained` does, or if the architectures differ.
    """
    checkpoint.check(path)
    known = checkpoint.read_classes(path).ids
    shared = [point for point in classes.ids if point in known]
    own = [classes.ids[point] for point in shared]
    theirs = [known[point] for point in shared]
    values, state = read_weights(path), model.state_dict()
    from kkanji.timm_models import class_rows

    network = network_name(checkpoint.read_state(path))
    for name in class_rows(network):
        rows, initial = values.get(name), state.get(name)
        if rows is not None and initial is not None and rows.shape == (len(known), *initial.shape[1:]):
            values[name] = initial.clone()
            values[name][own] = rows[theirs].to(initial.dtype)
    _fill(model, values, f"--init {path}: weights of {network[:SHOWN] or 'an unknown network'}")


def network_name(state: Mapping[str, Any]) -> str:
    """The timm name of a checkpoint's network; empty if its state does not say."""
    name: str = read_options(state.get("config", {})).get("model", "")
    return name


def _fill(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{where} do not fit this model: {str(error)[:SHOWN]}; {USE_ANOTHER}") from error
