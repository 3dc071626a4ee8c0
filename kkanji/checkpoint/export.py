"""A trained model for use by others: a checkpoint folder that timm loads too, and ONNX.

The folder holds half-precision weights, the class map, a model card, timm's `config.json` (so that
`timm.create_model("local-dir:FOLDER")` works once `kkanji.models` is imported), the ids of the originals behind the
weights (so that an evaluation anywhere can prove that its images are none of them) and, where wanted, `model.onnx`.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from kkanji import checkpoint
from kkanji.checkpoint import CLASSES, MODEL, ORIGINALS, STATE, write_hashed
from kkanji.checkpoint.lineage import originals_behind
from kkanji.checkpoint.load import network_of
from kkanji.checkpoint.onnx_file import ONNX, classifier_of, metadata, onnx_bytes, trial_images
from kkanji.config import read_options
from kkanji.models import timm_config
from kkanji.neighbours.index import FILE as NEIGHBOURS
from kkanji.wording import plain
from shards import InputError, OutputFolder
from shards.json_reading import read_bounded

TIMM, CARD = "config.json", "README.md"
DATA_LINE = "- Data: "  # how the card begins the line of its data's licence
MOST_CARD_BYTES = 1 << 20
PLACES = ("data", "output", "init", "teachers", "averaged")  # on the machine that trained: no use anywhere else


def export(
    path: Path, output: Path, *, card: str, temperature: float = 1.0, onnx: bool = False, overwrite: bool = False
) -> None:
    """Write a checkpoint for use rather than for training; the folder is whole or absent.

    The result is a checkpoint folder, usable for everything except resuming; it may itself be exported again. Raises
    InputError if there is no such checkpoint, the output is in use, the packages for ONNX are missing, or the ONNX file
    predicts differently.
    """
    checkpoint.check(path)
    weights = safetensors.torch.load_file(path / MODEL)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    state = checkpoint.usable_state(path)
    state["config"] = {name: value for name, value in read_options(state["config"]).items() if name not in PLACES}
    classes = checkpoint.read_classes(path)
    model = network_of(state, len(classes))
    model.load_state_dict(halves)  # float32 again, but of half precision's values: what the folder's users get
    contents: dict[str, str | bytes] = {
        MODEL: safetensors.torch.save(halves),
        STATE: json.dumps(state | {"temperature": temperature}, indent=1),
        CLASSES: classes.to_json(),
        TIMM: json.dumps(_timm_config(model, state["config"], classes.labels), indent=1),
        CARD: card,
    }
    with suppress(InputError):  # unknown originals: evaluations of the folder then report unknown lineage
        contents[ORIGINALS] = checkpoint.originals_bytes(originals_behind(path))
    if (path / NEIGHBOURS).is_file():
        contents[NEIGHBOURS] = (path / NEIGHBOURS).read_bytes()
    with OutputFolder(output, maker="export", inputs=[path], overwrite=overwrite) as partial:
        if onnx:
            classifier = classifier_of(path, model, temperature)
            about = metadata(classifier, classes, temperature, **card_facts(card))
            contents[ONNX] = onnx_bytes(classifier, partial / ONNX, trial_images(classes.characters), about)
        write_hashed(partial, contents)


def is_exported(path: Path) -> bool:
    """Whether a checkpoint's folder is an exported one, whose card and temperature are its own."""
    return (path / TIMM).is_file()  # timm's, which only exports have


def read_card(path: Path) -> str:
    """The model card of an exported folder. Raises InputError if there is none that can be read."""
    try:
        return read_bounded(path / CARD, MOST_CARD_BYTES).decode()
    except (OSError, ValueError) as error:
        raise InputError(f"{path / CARD}: {error}; expected a model card, put a copy of it back") from error


def card_facts(card: str) -> dict[str, str]:
    """A model's title and its data's licence, from its card, as `kkanji export` writes it: {"title", "licence"}."""
    lines = card.splitlines()
    title = next((line for line in lines if line.startswith("# ")), "# a model without a title")
    licence = next((line for line in lines if line.startswith(DATA_LINE)), f"{DATA_LINE}unknown: see the model card")
    return {"title": plain(title.removeprefix("# ")), "licence": plain(licence.removeprefix(DATA_LINE))}


def _timm_config(model: nn.Module, options: Mapping[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """What timm looks for beside the weights (its `save_for_hf` writes the same, and float32 weights)."""
    return timm_config(model, options["model"], options.get("head", "linear")) | {
        "num_classes": len(labels),
        "num_features": model.num_features,
        "label_names": list(labels),
    }
