"""The index of neighbours in a model's folder: read with care, and written into a copy of the folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from kkanji import checkpoint
from kkanji.checkpoint import CLASSES, MODEL, ORIGINALS, STATE, write_hashed
from kkanji.checkpoint.load import network_name, network_of
from kkanji.classes import ClassMap
from kkanji.neighbours.index import FILE, LARGEST_BYTES, Index, parse_index
from kkanji.neighbours.unknown import Unknown
from kkanji.neighbours.vote import Mix, WithNeighbours
from shards import InputError, OutputFolder
from shards.json_reading import read_bounded

# In logits, for classes that training never told from others. With ten classes of kana, 20 images of each, 72.9 % of
# other kana are right and kanji fall from 95.5 to 94.9 %; with 5 it is 78.0 and 92.7 %, with none 80.1 and 79.7 %.
HANDICAP = 9.0
CARD, TIMM = "README.md", "config.json"
USE_ANOTHER = "use another model folder, or make its index again with `kkanji neighbours`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How an index is used: `neighbours` and `unknown` in `state.json`."""

    mix: Mix
    unknown: Unknown | None


def has_neighbours(path: Path) -> bool:
    """Whether a model's folder holds an index."""
    return (path / FILE).is_file()


def with_neighbours(path: Path, network: nn.Module) -> nn.Module:
    """The network of a checkpoint's folder together with the folder's index; the network itself if there is none.

    Its logits are then logarithms of probabilities at the folder's temperature. Raises InputError if the index is
    damaged or not the network's.
    """
    if not has_neighbours(path):
        return network
    temperature = float(checkpoint.read_state(path).get("temperature", 1.0))
    return WithNeighbours(network, read_index(path, network), read_settings(path).mix, temperature)


def read_index(path: Path, network: nn.Module) -> Index:
    """The index of a folder. Raises InputError if it is damaged or not the network's."""
    try:
        width: Any = network.num_features
        classes = len(checkpoint.read_classes(path))
        return parse_index(read_bounded(path / FILE, LARGEST_BYTES), classes=classes, width=width)
    except (OSError, ValueError) as error:
        raise InputError(f"{path / FILE}: {error}; {USE_ANOTHER}") from error


def read_settings(path: Path) -> Settings:
    """How a folder's index is used. Raises InputError if its state does not say."""
    state = checkpoint.read_state(path)
    try:
        unknown = state.get("unknown")
        return Settings(mix=Mix(**state["neighbours"]), unknown=Unknown(**unknown) if unknown else None)
    except (KeyError, TypeError, ValueError) as error:
        found = f"neighbours: {type(error).__name__}: {str(error)[:160]}"
        raise InputError(f"{path / STATE}: {found}; {USE_ANOTHER}") from error


def write_with_neighbours(
    path: Path,
    output: Path,
    *,
    index: Index,
    settings: Settings,
    originals: NDArray[np.uint64],
    said: str,
    added: Mapping[int, Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a copy of an exported folder with an index; it is whole or absent.

    originals: ids of the images in the index, which join those behind the weights. said: a line for the model card.
    added: features [n, D] of each new class, by code point, for which the classifier gets a row. Raises InputError if
    the output is in use.
    """
    contents: dict[str, str | bytes] = {name: (path / name).read_bytes() for name in _copied(path)}
    state = checkpoint.usable_state(path) | {"neighbours": asdict(settings.mix)}
    if settings.unknown:
        state["unknown"] = asdict(settings.unknown)
    if added:
        contents |= _with_classes(path, state, index, added)
    if checkpoint.has_originals(path):
        contents[ORIGINALS] = checkpoint.originals_bytes(np.union1d(checkpoint.read_originals(path), originals))
    contents |= {STATE: json.dumps(state, indent=1), FILE: index.to_bytes(), CARD: _card(path, said)}
    with OutputFolder(output, maker="neighbours", inputs=[path], overwrite=overwrite) as partial:
        write_hashed(partial, contents)


def _copied(path: Path) -> list[str]:
    """Files that the copy has as they are. Not model.onnx, in which neighbours have no vote."""
    return [name for name in (MODEL, CLASSES, TIMM, ORIGINALS) if (path / name).is_file()]


def _card(path: Path, said: str) -> str:
    """The model card with one more line, before its table."""
    text = read_bounded(path / CARD, 1 << 20).decode()
    head, bar, rows = text.partition("\n| training originals")
    return f"{head.rstrip()}\n- {said}\n{bar}{rows}"


def _with_classes(
    path: Path, state: Mapping[str, Any], index: Index, added: Mapping[int, Tensor]
) -> dict[str, str | bytes]:
    """Weights, class map and timm's configuration with new classes after the others."""
    weights = safetensors.torch.load_file(path / MODEL)
    from kkanji.timm_models import class_rows  # imports timm, which takes seconds

    names = class_rows(network_name(state))
    rows, bias = (weights.get(name) for name in names)
    if rows is None:
        raise InputError(f"{path}: a network without {names[0]}; new characters need one of kkanji's networks")
    weights[names[0]] = torch.cat([rows, imprinted(rows, index, added)])
    if bias is not None:
        weights[names[1]] = torch.cat([bias, (bias.median() - HANDICAP).repeat(len(added))])
    larger = checkpoint.read_classes(path).with_others(ClassMap(tuple(added)))
    network_of(state, len(larger)).load_state_dict(weights)
    timm = json.loads(read_bounded(path / TIMM, 1 << 24)) | {
        "num_classes": len(larger),
        "label_names": list(larger.labels),
    }
    return {MODEL: safetensors.torch.save(weights), CLASSES: larger.to_json(), TIMM: json.dumps(timm, indent=1)}


def imprinted(rows: Tensor, index: Index, added: Mapping[int, Tensor]) -> Tensor:
    """Rows of a classifier for new classes, [n, D], as long as others are.

    Their direction is from the mean of all features in the index to the mean of the class's. After Qi, Brown, Lowe:
    Low-Shot Learning with Imprinted Weights, CVPR 2018.
    """
    middle = index.vectors().mean(dim=0) @ index.projection.float().T
    means = torch.stack([normalize(each.float()).mean(dim=0) for each in added.values()])
    new: Tensor = normalize(means - middle) * rows.float().norm(dim=1).median()
    return new.to(rows.dtype)
