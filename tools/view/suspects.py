"""Images whose label a model contradicts with the most confidence: many of them are mislabelled or badly cut.

A model finds them among images that it was not trained on; in five folds, five models find those of a whole set (after
confident learning: Northcutt, Jiang, Chuang 2021, arXiv:1911.00068, section 3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kkanji.evaluation.predictions import Predictions, load_predictions
from kkanji.variants import family_numbers
from shards import InputError
from shards.json_reading import read_json
from tools.view.contents import Contents

EVALUATE = "write it with `kkanji evaluate`, whose --output it is"


class Suspects(NamedTuple):
    """Images of a split, the most confidently contradicted first."""

    places: NDArray[np.int64]
    """Their numbers in the split, [n]."""
    predicted: NDArray[np.int64]
    """Class numbers that the model predicts, [n]."""
    rows: Sequence[tuple[str, ...]]
    """Lines of the list, with values of SUSPECT_COLUMNS."""


def find_suspects(contents: Contents, evaluation: Path, count: int) -> Suspects:
    """The `count` misreadings with the highest probability, other forms of the label's character left out.

    contents: one split of a set. evaluation: folder of its evaluation. Raises InputError if that is of another set or
    split, or of a model that was trained on these images.
    """
    (subset,) = contents.subsets
    predictions = _predictions(contents, evaluation)
    families = family_numbers(contents.classes.characters)
    predicted = predictions.predicted[:, 0].numpy().astype(np.int64)
    strange = families[predicted] != families[predictions.label.numpy()]
    probability = predictions.probability[:, 0].numpy()
    surest = np.flatnonzero(strange)[np.argsort(-probability[strange], kind="stable")][:count]
    labels, places = contents.classes.labels, predictions.position.numpy()[surest]
    rows = [
        (
            f"{subset.sources[place]:016x}",
            labels[subset.labels[place]],
            labels[predicted[row]],
            f"{probability[row]:.4f}",
            f"{predictions.label_probability[row]:.4f}",
        )
        for row, place in zip(surest, places, strict=True)
    ]
    return Suspects(places, predicted[surest], rows)


def _predictions(contents: Contents, evaluation: Path) -> Predictions:
    """The predictions of all images of the split, in any order."""
    (subset,) = contents.subsets
    if "identity" not in contents.facts:
        raise InputError(f"{contents.where}: originals; give the shard set that was evaluated")
    summary = read_json(evaluation / "evaluation.json", remedy=EVALUATE)
    wanted = {"data": contents.facts["identity"], "split": subset.name, "classes": len(contents.classes)}
    for name, expected in wanted.items():
        if summary.get(name) != expected:
            found = f"{name} {str(summary.get(name))[:80]}, expected {expected} of {contents.where}"
            raise InputError(f"{evaluation}: {found}; evaluate this set, with a model of its classes")
    if summary.get("overlapping"):
        raise InputError(f"{evaluation}: of a model that was trained on these images; evaluate one that was not")
    predictions = load_predictions(evaluation / "predictions.npz")
    order = predictions.position.argsort()
    same = np.array_equal(predictions.label[order].numpy(), subset.labels)
    if not same or int(predictions.predicted[:, 0].max()) >= len(contents.classes):
        found = "the model numbers its classes otherwise than the set"
        raise InputError(f"{evaluation}: {found}; evaluate a model that was trained on a set of the same originals")
    return predictions
