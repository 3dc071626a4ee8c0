"""`kkanji export --page FOLDER`: the files of a page that reads characters with a model."""

import gzip
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kkanji import __version__, checkpoint
from kkanji.checkpoint.export import card_facts
from kkanji.checkpoint.load import load_trained
from kkanji.checkpoint.onnx_file import Classifier, classifier_of, metadata, onnx_bytes, session_of, trial_images
from kkanji.classes import ClassMap
from kkanji.glyphs import font_subset, has_glyph
from kkanji.inference.image_files import load_character
from kkanji.inference.listing import list_images
from kkanji.neighbours.unknown import Unknown
from kkanji.page import embedded, runtime
from kkanji.page.small_weights import with_small_weights
from kkanji.variants import family_numbers
from shards import OutputFolder, write_file

FILES = files("kkanji.page").joinpath("files")
TYPESET_IMAGES = 256  # to compare on, where no others are given
BATCH = 64
# Below this probability of the best reading, with the other forms of its character, the page of a network without
# neighbours says so.
LEAST_PROBABILITY = 0.3
KANA = range(0x3041, 0x3100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How the page's model, with its small weights, compares with torch."""

    kind: Literal["real", "typeset"]
    """What the images are: files that were given, or characters from a font."""
    images: int
    same: int
    """Number of images with the same first reading."""
    difference: float
    """Mean difference of the probability of torch's first reading."""
    marks: int | None = None
    """Number of images that both, or neither, mark as no character; None for a network alone."""


def write_page(
    path: Path, output: Path, *, card: str, temperature: float, images: Path | None = None, overwrite: bool = False
) -> None:
    """Write the page of a checkpoint's model; the folder is whole or absent.

    card: its model card. images: a folder of image files to compare the page's model with torch on; None for typeset
    characters. Raises InputError if the output is in use, or packages or npm are missing.
    """
    classes = checkpoint.read_classes(path)
    classifier = classifier_of(path, load_trained(path), temperature)
    facts = card_facts(card)
    with OutputFolder(output, maker="export", inputs=[path], overwrite=overwrite) as partial:
        web = runtime.runtime_files()
        about = metadata(classifier, classes, temperature, **facts)
        trial = trial_images(classes.characters)
        whole = onnx_bytes(classifier, partial / "model.onnx", trial, about, prepares=False)  # the page prepares
        (partial / "model.onnx").unlink()
        small = with_small_weights(whole)
        agreement = compare(classifier, small, *_to_compare_on(images, classes))
        about_page = json.dumps(describe(classes, facts, agreement, classifier.unknown))
        contents = {
            "about.js": f"const ABOUT = {about_page};\n".encode(),
            "onnxruntime.js": web[runtime.SCRIPT],
            "runtime.js": _scripts(
                {"module": web[runtime.MODULE], "wasm": gzip.compress(web[runtime.WASM], 9, mtime=0)}
            ),
            "model.js": _scripts({"glyphs": _glyphs(classes), "model": gzip.compress(small, 9, mtime=0)}),
            **{each.name: each.read_bytes() for each in FILES.iterdir()},
        }
        for name, content in contents.items():
            write_file(partial / name, content)


def describe(classes: ClassMap, facts: dict[str, str], agreement: Agreement, unknown: Unknown | None) -> dict[str, Any]:
    """What the page knows of its model: ABOUT in its scripts."""
    families = family_numbers(classes.characters)
    _, numbers, sizes = np.unique(families, return_inverse=True, return_counts=True)
    members = {int(n): np.flatnonzero(numbers == n).tolist() for n in np.flatnonzero(sizes > 1)}
    return {
        **facts,
        "maker": f"kkanji {__version__}",
        "characters": classes.characters,
        "family": [int(n) if n in members else -1 for n in numbers.tolist()],
        "forms": members,
        "kana": any(point in KANA for point in classes.code_points),
        "least_probability": LEAST_PROBABILITY,
        "unknown_threshold": unknown.threshold if unknown else None,
        "agreement": asdict(agreement) | {"difference": f"{agreement.difference:.4f}"},
    }


def compare(
    classifier: Classifier, small: bytes, images: NDArray[np.uint8], kind: Literal["real", "typeset"]
) -> Agreement:
    """How often the file with small weights has torch's first reading and mark. images: uint8 [n, 1, 64, 64]."""
    session, batches = session_of(small), np.split(images, range(BATCH, len(images), BATCH))
    with torch.inference_mode():
        expected = _joined([[output.numpy() for output in classifier(torch.from_numpy(batch))] for batch in batches])
    found = _joined([session.run(classifier.outputs, {"images": batch}) for batch in batches])
    best, rows = expected[0].argmax(axis=1), np.arange(len(images))
    marks = None
    if classifier.unknown:
        threshold = classifier.unknown.threshold
        marks = int(((found[1] >= threshold) == (expected[1] >= threshold)).sum())
    return Agreement(
        kind=kind,
        images=len(images),
        same=int((found[0].argmax(axis=1) == best).sum()),
        difference=float(np.abs(found[0][rows, best] - expected[0][rows, best]).mean()),
        marks=marks,
    )


def _joined(batches: list[list[NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """Each output for all images."""
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _to_compare_on(images: Path | None, classes: ClassMap) -> tuple[NDArray[np.uint8], Literal["real", "typeset"]]:
    if images is None:
        return trial_images(classes.characters, TYPESET_IMAGES), "typeset"
    return np.stack([load_character(file) for file in list_images([images]).files])[:, None], "real"


def _glyphs(classes: ClassMap) -> bytes:
    """A font with the model's characters and those of the page's texts, which not every machine has."""
    texts = FILES.joinpath("texts.js").read_text(encoding="utf-8")
    return font_subset(character for character in {*classes.characters, *texts} if has_glyph(character))


def _scripts(parts: dict[str, bytes]) -> bytes:
    """One script that puts these parts into `embedded`."""
    first, *rest = (embedded.script(name, data) for name, data in parts.items())
    return first + b"".join(each.removeprefix(embedded.MARK) for each in rest)
