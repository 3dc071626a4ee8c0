"""Does a model with neighbours know what it does not know: `python -m benchmarks unknown`.

Characters are the validation images that chose no setting, every other one. Against them stand images made to show no
character, by other random numbers and from other images than those that the score was fitted to, and kana, of which it
was fitted to none that a brush wrote.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import environment, write_result
from benchmarks.rows import Row, plain
from kkanji.data.training_set import class_map, open_set
from kkanji.inference.predict import Judged, Predictor
from kkanji.neighbours.made import KINDS, make
from shards import InputError
from shards.format.layout import IMAGE_SIZE

SEED = 1  # the score was fitted to images of seed 0
PRECISION = 0.99
BATCH = 64


def unknown(
    checkpoint: Path,
    *,
    data: str,
    kana: Path | None = None,
    images: int = 5_000,
    made: int = 300,
    output: Path = Path("benchmarks/results/unknown.json"),
) -> None:
    """Measure how well a model's score tells its characters from everything else, and what it accepts at 99 %.

    Example: python -m benchmarks unknown --checkpoint models/mine --data data/shards --kana kmnist-test-imgs.npz

    Args:
        checkpoint: model folder with neighbours, whose settings were chosen on the set's validation images
        data: shard set with the split val
        kana: .npz of images [n, h, w] of characters that the model does not know
        images: most validation images, and most kana
        made: images of each kind that is made
        output: JSON to write
    """
    predictor = Predictor(checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if predictor.judge is None:
        raise InputError(f"{checkpoint}: has no score for unknown images; make it with `kkanji neighbours`")
    reader, classes = open_set(data).split("val"), class_map(open_set(data))
    positions = np.arange(1, reader.samples, 2)[:: max(1, reader.samples // 2 // images)][:images]
    characters = reader.collect(positions)
    known = _judged(predictor, characters.images)
    right = np.array(
        [each.guesses[0].label == classes.labels[label] for each, label in zip(known, characters.labels, strict=True)]
    )
    others = {name: _judged(predictor, each) for name, each in _others(characters.images, made, kana, images)}
    rows = [_row("characters", known, known), *(_row(name, each, known) for name, each in others.items())]
    accepted = [_accepted(name, known, right, others) for name in ("probability", "probability x known")]
    options = {"images": len(known), "threshold": predictor.judge.threshold}
    result = {"benchmark": "unknown", "environment": environment(), "options": options, "rows": rows}
    write_result(output, result | {"accepted": accepted})
    sys.stdout.write("\n".join([*plain(rows), "", *plain(accepted)]) + "\n")


def _judged(predictor: Predictor, images: NDArray[np.uint8]) -> list[Judged]:
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return [each for part in parts for each in predictor.judged(part, 1)]


def _others(
    characters: NDArray[np.uint8], count: int, kana: Path | None, most: int
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and images of everything that is none of the model's characters."""
    for kind in KINDS:
        yield kind, make(characters, kind, count, seed=SEED)
    if kana is not None:
        with np.load(kana, allow_pickle=False) as arrays:
            images = arrays[arrays.files[0]]
        chosen = images[:: max(1, len(images) // most)][:most]
        size = (IMAGE_SIZE, IMAGE_SIZE)
        yield "kana", np.stack([cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in chosen])


def _row(name: str, judged: list[Judged], known: list[Judged]) -> Row:
    """Of one kind: how well its scores are told from those of characters, and how many are marked."""
    scores = _scores(judged)
    marked = float(np.mean([each.doubt is not None for each in judged]))
    return {
        "name": name,
        "images": len(judged),
        "AUROC": None if judged is known else auroc(_scores(known), scores),
        "marked": marked,
        "median score": float(np.median(scores)),
    }


def _scores(judged: list[Judged]) -> NDArray[np.float64]:
    return np.array([each.unknown for each in judged], np.float64)


def auroc(known: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The probability that one of the others has a higher score than one that is known; ties count half."""
    ranked = np.sort(known)
    below, upto = (np.searchsorted(ranked, others, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(known))


def _accepted(name: str, known: list[Judged], right: NDArray[np.bool_], others: dict[str, list[Judged]]) -> Row:
    """How many characters may be accepted while 99 % of what is accepted is right: alone, and among as many others."""
    mixed = [each for judged in others.values() for each in judged]
    confident = [_confidence(name, judged) for judged in (known, mixed)]
    share = len(known) / max(1, len(mixed))  # as if there were as many of both
    return {
        "name": f"by {name}",
        "characters alone": coverage(confident[0], right, np.zeros(0), share),
        "among as many others": coverage(confident[0], right, confident[1], share),
    }


def _confidence(name: str, judged: list[Judged]) -> NDArray[np.float64]:
    probability = np.array([each.guesses[0].probability for each in judged])
    return probability if name == "probability" else probability * (1 - _scores(judged))


def coverage(known: NDArray[np.float64], right: NDArray[np.bool_], others: NDArray[np.float64], share: float) -> float:
    """Largest part of the known that can be accepted by confidence with at least 99 % of all accepted right.

    others: confidences of images that are never right, each of which counts `share` times.
    """
    order = np.argsort(-known)
    accepted = np.arange(1, len(known) + 1)
    intruders = len(others) - np.searchsorted(np.sort(others), known[order], "left")
    precise = np.cumsum(right[order]) >= PRECISION * (accepted + intruders * share)
    return float(accepted[precise].max(initial=0) / len(known))
