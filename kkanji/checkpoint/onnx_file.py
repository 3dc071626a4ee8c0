"""A network as an ONNX file that reads images of any size, says in its metadata what it is, and predicts as torch does.

Its preparation is that of image files as far as tensor operations go (graph_preparation.py).
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kkanji import __version__
from kkanji.checkpoint.graph_preparation import Preparation
from kkanji.checkpoint.neighbours import has_neighbours, read_index, read_settings
from kkanji.classes import ClassMap
from kkanji.glyphs import render_glyph
from kkanji.neighbours.in_graph import NeighbourClassifier
from kkanji.neighbours.unknown import REASONS, Unknown
from kkanji.pixels import normalise
from kkanji.variants import forms
from shards import InputError
from shards.format.layout import IMAGE_SIZE

ONNX = "model.onnx"
OPSET = 18  # understood by ONNX 1.13 (2022) and later
TRIAL_IMAGES = 16
TRIAL_MARGIN = 21  # of paper around a typeset character, to try the preparation with
# Of a probability, between torch and onnxruntime: sums in another order differed by 1.3e-6 at most over 300 images.
TOLERANCE = 1e-4
# The same where an image was scaled: a level on the edge between two whole ones may become either; found: 2.6e-4.
SCALED_TOLERANCE = 5e-3
OUTPUTS = {
    "probabilities": "probabilities: float32 [n, classes] in the order of labels, at the temperature given",
    "unknown": "unknown: float32 [n], a score from 0 to 1 that the image shows none of the labels' characters; it "
    "probably shows none from unknown_threshold on",
    "reasons": "reasons: float32 [n, 3], the parts of that score, in the order of unknown_reasons",
}
"""What the metadata says of each."""
PREPARATION = (
    "images: uint8 [n, 1, height, width], gray, each showing one character upright, dark on light or light on dark; "
    "any size, the same for all of a batch. In the graph: ink is told from paper, the paper's surface made even, the "
    "contrast stretched, the image cropped to the ink, scaled to 64 pixels in the longer side, centred on black, and "
    "normalised; images of 64x64 that are like the data's are taken as they are. Only `kkanji predict` also takes out "
    "frames, surrounds, rules, seals, neighbours and blur. Left to the reader of files: orientation (EXIF), white "
    "behind transparency, 16-bit levels to 8, colours to gray (0.299 R + 0.587 G + 0.114 B)."
)


class ImageClassifier(nn.Module):
    """Pixels to probabilities: the network with its normalisation and temperature, which users then need not know."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.outputs: tuple[str, ...] = ("probabilities",)
        self.unknown: Unknown | None = None
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities float32 [B, classes] of images [B, 1, 64, 64], gray levels of white ink on black."""
        logits: Tensor = self.model(normalise(images))
        return ((logits / self.temperature).softmax(dim=1),)


Classifier: TypeAlias = ImageClassifier | NeighbourClassifier


def classifier_of(path: Path, model: nn.Module, temperature: float) -> Classifier:
    """What is exported of a checkpoint: its network, with its neighbours where the folder has an index.

    Raises InputError if the index is damaged or not the network's.
    """
    if not has_neighbours(path):
        return ImageClassifier(model, temperature)
    settings = read_settings(path)
    return NeighbourClassifier(model, read_index(path, model), settings.mix, temperature, settings.unknown)


class ImageReader(nn.Module):
    """Gray images of any size to what a classifier says of them: what the ONNX file holds."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.prepare, self.classifier, self.outputs = Preparation(), classifier, classifier.outputs
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names, for images uint8 [B, 1, H, W], of either polarity."""
        found: tuple[Tensor, ...] = self.classifier(self.prepare(images))
        return found


def metadata(
    classifier: Classifier, classes: ClassMap, temperature: float, *, title: str, licence: str
) -> dict[str, str]:
    """What the file says of itself, all of it text; lists are JSON. title, licence: as the model card has them."""
    return _neighbours_said(classifier) | {
        "title": title,
        "licence": licence,
        "made_by": f"kkanji {__version__}",
        "labels": json.dumps(classes.labels),
        "characters": "".join(classes.characters),
        "families": json.dumps(sorted({*forms(classes.characters)} - {""}), ensure_ascii=False),
        "temperature": str(temperature),
        "preparation": PREPARATION,
        "outputs": "; ".join(OUTPUTS[name] for name in classifier.outputs),
    }


def _neighbours_said(classifier: Classifier) -> dict[str, str]:
    """Of the index in the file, and of the score of what is no character; nothing of a network alone."""
    if isinstance(classifier, ImageClassifier):
        return {}
    mix, images, unknown = classifier.mix, len(classifier.labels), classifier.unknown
    said = (
        f"{images:,} training images, of which the {mix.count} nearest vote at temperature {mix.temperature}, with "
        f"weight {mix.weight} beside the network; probabilities contain their votes"
    )
    judged = {"unknown_threshold": str(unknown.threshold), "unknown_reasons": json.dumps(REASONS)} if unknown else {}
    return {"neighbours": said} | judged


def trial_images(characters: tuple[str, ...], most: int = TRIAL_IMAGES) -> NDArray[np.uint8]:
    """Typeset characters of the model's own classes, evenly taken, uint8 [n, 1, 64, 64]."""
    chosen = characters[:: max(1, len(characters) // most)][:most]
    return np.stack([render_glyph(character, IMAGE_SIZE) for character in chosen])[:, None]


def onnx_bytes(
    classifier: Classifier,
    path: Path,
    images: NDArray[np.uint8],
    about: Mapping[str, str],
    *,
    prepares: bool = True,
) -> bytes:
    """Write the ONNX file and compare its predictions for the images, by onnxruntime, with torch's.

    images: as `trial_images` gives them. about: its metadata. prepares: whether the file takes images of any size.
    """
    _write_onnx(ImageReader(classifier) if prepares else classifier, path, prepares)
    data = _described(path, about)
    path.write_bytes(data)
    compare(classifier, data, images, prepares=prepares)
    return data


def compare(classifier: Classifier, onnx: bytes, images: NDArray[np.uint8], *, prepares: bool = True) -> None:
    """Raises InputError if onnxruntime's probabilities or scores differ from torch's.

    They are compared for all images at once, for one, and for a file which prepares images, for one printed dark on
    brown paper with a margin.
    """
    session = session_of(onnx)
    _compare_batch(classifier, session, images, TOLERANCE)
    _compare_batch(classifier, session, images[:1], TOLERANCE)
    if prepares:
        _compare_batch(ImageReader(classifier), session, _on_paper(images[:1]), SCALED_TOLERANCE)


def _compare_batch(expect: Classifier | ImageReader, session: Any, images: NDArray[np.uint8], tolerance: float) -> None:
    with torch.inference_mode():
        expected = [output.numpy() for output in expect(torch.from_numpy(images))]
    for name, theirs, ours in zip(
        expect.outputs, session.run(expect.outputs, {"images": images}), expected, strict=True
    ):
        if theirs.shape != ours.shape or not np.abs(theirs - ours).max() <= tolerance:
            distance = np.abs(theirs - ours).max() if theirs.shape == ours.shape else theirs.shape
            raise InputError(
                f"{ONNX}: onnxruntime's {name} differ from torch's by {distance}, expected at most {tolerance}; "
                "use the folder without ONNX, and report the versions"
            )


def session_of(onnx: bytes) -> Any:
    """The file's session in onnxruntime, on the CPU."""
    return _runtime().InferenceSession(onnx, providers=["CPUExecutionProvider"])


def _on_paper(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    margins = ((0, 0), (0, 0), (TRIAL_MARGIN, TRIAL_MARGIN), (2 * TRIAL_MARGIN, TRIAL_MARGIN))
    return (190 - np.pad(images, margins) * 0.6).astype(np.uint8)


def _write_onnx(module: Classifier | ImageReader, path: Path, any_size: bool) -> None:
    _runtime()
    dimension = torch.export.Dim
    sizes = {2: dimension("height", min=1), 3: dimension("width", min=1)} if any_size else {}
    shape = (2, 1, IMAGE_SIZE + 6, IMAGE_SIZE + 16) if any_size else (2, 1, IMAGE_SIZE, IMAGE_SIZE)
    torch.onnx.export(
        module,
        (torch.zeros(shape, dtype=torch.uint8),),
        path,
        input_names=["images"],
        output_names=module.outputs,
        dynamic_shapes={"images": {0: dimension("n", min=1), **sizes}},
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _described(path: Path, about: Mapping[str, str]) -> bytes:
    """The file with its metadata, and without the exporter's: stack traces, which name folders of this machine."""
    onnx = import_module("onnx")
    model = onnx.load(path)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, dict(about))
    data: bytes = model.SerializeToString()
    return data


def _runtime() -> Any:
    """onnxruntime, with which an exporter comes: the extra `export`."""
    try:
        import_module("onnxscript")
        return import_module("onnxruntime")
    except ImportError as error:
        raise InputError(f"--onnx: no Python package {error.name}; pip install 'kkanji[export]'") from error
