"""A trained model for use by others: a checkpoint folder that timm loads too, and ONNX.

The folder holds half-precision weights, the class map, a model card, timm's `config.json` (so that
`timm.create_model("local-dir:FOLDER")` works once `kkanji.models` is imported), the ids of the originals behind the
weights (so that an evaluation anywhere can prove that its images are none of them) and, where wanted, `model.onnx`.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji import checkpoint
from kkanji.checkpoint import CLASSES, MODEL, ORIGINALS, STATE, write_hashed
from kkanji.checkpoint.lineage import originals_behind
from kkanji.checkpoint.load import network_of
from kkanji.config import read_options
from kkanji.glyphs import render_glyph
from kkanji.neighbours.index import FILE as NEIGHBOURS
from kkanji.pixels import normalise
from shards import InputError, OutputFolder
from shards.format.layout import IMAGE_SIZE

ONNX, TIMM, CARD = "model.onnx", "config.json", "README.md"
OPSET = 18  # understood by ONNX 1.13 (2022) and later
TRIAL_IMAGES = 16
# Of a probability, between torch and onnxruntime: sums in another order differed by 1.3e-6 at most over 300 images.
TOLERANCE = 1e-4
PLACES = ("data", "output", "init", "teachers", "averaged")  # on the machine that trained: no use anywhere else
# Of a network's timm configuration: what does not depend on where its weights came from.
TIMM_FIELDS = (
    "input_size",
    "fixed_input_size",
    "pool_size",
    "first_conv",
    "classifier",
    "mean",
    "std",
    "interpolation",
    "crop_pct",
    "crop_mode",
)


class ImageClassifier(nn.Module):
    """Pixels to probabilities: the network with its normalisation and temperature, which users then need not know."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities float32 [B, classes] of images uint8 [B, 1, 64, 64], white ink on black."""
        logits: Tensor = self.model(normalise(images))
        return (logits / self.temperature).softmax(dim=1)


def export(
    path: Path, output: Path, *, card: str, temperature: float = 1.0, onnx: bool = False, overwrite: bool = False
) -> None:
    """Write a checkpoint for use rather than for training; the folder is whole or absent.

    The result is a checkpoint folder, usable for everything except resuming. Raises InputError if there is no such
    checkpoint, the output is in use, the packages for ONNX are missing, or the ONNX file predicts differently.
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
        TIMM: json.dumps(timm_config(model, state["config"], classes.labels), indent=1),
        CARD: card,
    }
    with suppress(InputError):  # unknown originals: evaluations of the folder then report unknown lineage
        contents[ORIGINALS] = checkpoint.originals_bytes(originals_behind(path))
    if (path / NEIGHBOURS).is_file():
        contents[NEIGHBOURS] = (path / NEIGHBOURS).read_bytes()
    with OutputFolder(output, maker="export", inputs=[path], overwrite=overwrite) as partial:
        if onnx:
            classifier = ImageClassifier(model, temperature)
            contents[ONNX] = onnx_bytes(classifier, partial / ONNX, trial_images(classes.characters))
        write_hashed(partial, contents)


def timm_config(model: nn.Module, options: Mapping[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """What timm looks for beside the weights (its `save_for_hf` writes the same, and float32 weights)."""
    pretrained: Any = model.pretrained_cfg
    return {
        "architecture": pretrained["architecture"],
        "model_args": {"head": options.get("head", "linear")},
        "num_classes": len(labels),
        "num_features": model.num_features,
        "label_names": list(labels),
        "pretrained_cfg": {name: pretrained[name] for name in TIMM_FIELDS if name in pretrained},
    }


def trial_images(characters: tuple[str, ...]) -> NDArray[np.uint8]:
    """Typeset characters of the model's own classes, evenly taken, uint8 [n, 1, 64, 64]."""
    chosen = characters[:: max(1, len(characters) // TRIAL_IMAGES)][:TRIAL_IMAGES]
    return np.stack([render_glyph(character, IMAGE_SIZE) for character in chosen])[:, None]


def onnx_bytes(classifier: ImageClassifier, path: Path, images: NDArray[np.uint8]) -> bytes:
    """Write the ONNX file and compare its predictions for the images, by onnxruntime, with torch's."""
    _write_onnx(classifier, path, torch.from_numpy(images))
    data = path.read_bytes()
    compare(classifier, data, images)
    return data


def compare(classifier: ImageClassifier, onnx: bytes, images: NDArray[np.uint8]) -> None:
    """Raises InputError if onnxruntime's probabilities differ from torch's, for all images at once or for one."""
    session = _runtime().InferenceSession(onnx, providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        with torch.inference_mode():
            expected = classifier(torch.from_numpy(batch)).numpy()
        (found,) = session.run(None, {"images": batch})
        if found.shape != expected.shape or not np.abs(found - expected).max() <= TOLERANCE:
            distance = np.abs(found - expected).max() if found.shape == expected.shape else found.shape
            raise InputError(
                f"{ONNX}: onnxruntime's probabilities differ from torch's by {distance}, expected at most {TOLERANCE}; "
                "use the folder without ONNX, and report the versions"
            )


def _write_onnx(classifier: ImageClassifier, path: Path, images: Tensor) -> None:
    _runtime()
    torch.onnx.export(
        classifier,
        (images,),
        path,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _runtime() -> Any:
    """onnxruntime, with which an exporter comes: the extra `export`."""
    try:
        import_module("onnxscript")
        return import_module("onnxruntime")
    except ImportError as error:
        raise InputError(f"--onnx: no Python package {error.name}; pip install 'kkanji[export]'") from error
