"""A model that has learnt nothing, with an index of typeset characters and a score of what is none of them."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kkanji import checkpoint
from kkanji.checkpoint.export import export
from kkanji.checkpoint.load import load_trained
from kkanji.checkpoint.neighbours import Settings, write_with_neighbours
from kkanji.classes import ClassMap
from kkanji.glyphs import render_glyph
from kkanji.models import create_model
from kkanji.neighbours.index import make_index
from kkanji.neighbours.made import KINDS, make
from kkanji.neighbours.unknown import Unknown, describe, fit
from kkanji.neighbours.vote import Mix, WithNeighbours, features_of
from kkanji.pixels import normalise
from kkanji.training.optimizers import create_optimizer
from shards.format.layout import IMAGE_SIZE

MODEL = "kkanji_efficientnet_fused_s"
MIX = Mix(count=5, temperature=0.03, weight=0.4)
MADE = 12  # images of each kind


def exported_model(folder: Path, characters: str, card: str) -> Path:
    """An exported network of random weights, whose logits are far enough apart to be told apart."""
    torch.manual_seed(0)
    network = create_model(MODEL, len(characters), "linear")
    with torch.no_grad():
        network.get_submodule("classifier").weight.mul_(20)  # type: ignore[operator]
    trained = checkpoint.save(
        folder,
        1,
        model=network,
        optimizer=create_optimizer(network, "sgd", lr=0.1, weight_decay=0.0),
        state={"config": {"model": MODEL, "head": "linear"}, "progress": {"step": 1}},
        classes=ClassMap.of(map(ord, characters)),
        best=True,
    )
    export(trained, folder / "exported", card=card)
    return folder / "exported"


@torch.no_grad()
def with_index(model: Path, output: Path) -> Path:
    """A copy of an exported model with an index of its characters, each in several places."""
    network = load_trained(model).eval()
    images, labels = _typeset(checkpoint.read_classes(model).characters)
    features = features_of(network, normalise(torch.from_numpy(images)[:, None]))
    index = make_index(features, torch.from_numpy(labels), int(labels.max()) + 1, parts=8, most=50)
    settings = Settings(mix=MIX, unknown=_judge(WithNeighbours(network, index, MIX, 1.0), images))
    originals = np.arange(len(images), dtype=np.uint64)
    write_with_neighbours(model, output, index=index, settings=settings, originals=originals, said="an index")
    return output


def _typeset(characters: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    glyphs = [render_glyph(character, IMAGE_SIZE) for character in characters]
    moved = [np.roll(glyph, shift, axis=(0, 1)) for glyph in glyphs for shift in ((0, 0), (1, 2), (-2, 1), (2, -1))]
    return np.stack(moved), np.arange(len(characters)).repeat(4)


def _judge(model: WithNeighbours, characters: NDArray[np.uint8]) -> Unknown:
    def described(images: NDArray[np.uint8]) -> torch.Tensor:
        return describe(model.read(normalise(torch.from_numpy(images)[:, None])), images)

    others: dict[str, list[NDArray[np.uint8]]] = {}
    for kind, (reason, _) in KINDS.items():
        others.setdefault(reason, []).append(make(characters, kind, MADE, seed=0))
    drawn, made = described(characters), {reason: described(np.concatenate(each)) for reason, each in others.items()}
    with torch.enable_grad():
        return fit(drawn, made)
