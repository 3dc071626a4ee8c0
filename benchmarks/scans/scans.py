"""How many characters a model reads right in each of the ways in which people have them.

`python -m benchmarks scans --data SHARDS`. Images of a split that the model was not trained on are made into pictures,
which are read as `kkanji predict` reads files, and as the first version did. Pictures are made anew each time, from the
seed alone, and not kept.
"""

import sys
from pathlib import Path
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import environment, write_result
from benchmarks.rows import Row, plain
from benchmarks.scans.before import prepared_before
from benchmarks.scans.ways import WAYS, Way
from kkanji.checkpoint.lineage import proven_disjoint
from kkanji.data.training_set import class_map, open_set
from kkanji.evaluation.metrics import interval
from kkanji.inference.image_files import read_characters
from kkanji.inference.predict import Guess, Predictor
from kkanji.variants import family_numbers
from shards import InputError, Samples, ShardSet
from shards.format.layout import IMAGE_SIZE

NOT_COUNTED = "turned 90 degrees"  # nothing says which way up a character is
BATCH = 250  # pictures at a time


def scans(
    *,
    data: str,
    checkpoint: Path = Path("models/kuzushiji-kanji-evaluated"),
    split: str = "val",
    images: int = 1000,
    only: tuple[str, ...] = (),
    seed: int = 0,
    output: Path = Path("benchmarks/results/scans.json"),
) -> None:
    """Measure top-1 for each way in which scans differ from the data.

    Example: python -m benchmarks scans --data data/shards

    Args:
        data: shard set of the characters
        checkpoint: model that was not trained on the split
        split: split to take characters from
        images: characters, the same for each way
        only: ways; all if not given
        seed: seed of what is random in the pictures, and of the choice of characters
        output: JSON to write
    """
    unknown = sorted(set(only) - set(WAYS))
    if unknown:
        raise InputError(f"--only {unknown[0]}: no such way; expected some of {', '.join(WAYS)}")
    state, shards = environment(), open_set(data)
    characters, neighbours = _characters(shards, split, images, seed)
    if not proven_disjoint(checkpoint, characters.sources):
        raise InputError(f"{checkpoint}: trained on images of {split}, or nothing says that it was not; give another")
    predictor = Predictor(checkpoint, torch.device("cpu"))
    labels = np.array(class_map(shards).labels)[characters.labels]
    rows = [
        _measured(name, WAYS[name], predictor, characters.images, neighbours, labels, seed) for name in only or WAYS
    ]
    rows += _summary([row for row in rows if row["name"] != NOT_COUNTED])
    options = {"images": len(labels), "seed": seed, "split": split, "checkpoint": checkpoint.name}
    write_result(output, {"benchmark": "scans", "options": options, "environment": state, "rows": rows})
    sys.stdout.write("\n".join(plain(rows)) + "\n")


def _characters(shards: ShardSet, split: str, images: int, seed: int) -> tuple[Samples, NDArray[np.uint8]]:
    """Characters of a split, and two neighbours of each, uint8 [n, 2, 64, 64]."""
    if split not in shards.manifest.splits:
        raise InputError(f"--split {split}: {shards.location} has {', '.join(shards.manifest.splits)}")
    reader = shards.split(split)
    if not 1 <= images <= reader.samples // 3:
        raise InputError(f"--images {images}: expected 1 to {reader.samples // 3}, a third of {split}")
    numbers = np.random.default_rng(seed).permutation(reader.samples)[: 3 * images]
    beside = reader.collect(numbers[images:]).images
    return reader.collect(numbers[:images]), beside.reshape(images, 2, IMAGE_SIZE, IMAGE_SIZE)


def _measured(
    name: str,
    way: Way,
    predictor: Predictor,
    images: NDArray[np.uint8],
    neighbours: NDArray[np.uint8],
    labels: NDArray[np.str_],
    seed: int,
) -> Row:
    """A row of the result: rates in percent, with the interval of 95 %."""
    pictures = [
        way(np.stack([image, *beside]), np.random.default_rng([seed, number]))
        for number, (image, beside) in enumerate(zip(images, neighbours, strict=True))
    ]
    started = process_time()
    found = np.stack([_found(picture, name) for picture in pictures])
    seconds = process_time() - started
    guesses = _guesses(predictor, found)
    right = _is_right(guesses, labels)
    before = _is_right(_guesses(predictor, np.stack([prepared_before(picture) for picture in pictures])), labels)
    low, high = interval(float(right.mean()), len(right))
    sys.stderr.write(f"{name}: {100 * before.mean():.1f} % before, {100 * right.mean():.1f} % now\n")
    return {
        "name": name,
        "before": 100 * float(before.mean()),
        "top-1": 100 * float(right.mean()),
        "lowest": 100 * low,
        "highest": 100 * high,
        "with forms": 100 * _right_by_form(guesses, labels, predictor),
        "stated when wrong": 100 * float(np.mean([guess.probability for guess in guesses], where=~right))
        if not right.all()
        else None,
        "ms an image": 1000 * seconds / len(found),
    }


def _summary(rows: list[Row]) -> list[Row]:
    """The mean and the least of some rows."""
    kinds = (("mean", np.mean), ("least", np.min))
    return [
        {"name": f"{kind} without {NOT_COUNTED}"}
        | {column: float(of([row[column] for row in rows])) for column in ("before", "top-1")}
        for kind, of in kinds
    ]


def _guesses(predictor: Predictor, images: NDArray[np.uint8]) -> list[Guess]:
    """The best reading of each image [n, 64, 64]."""
    return [
        guesses[0] for at in range(0, len(images), BATCH) for guesses in predictor.predict(images[at : at + BATCH], 1)
    ]


def _is_right(guesses: list[Guess], labels: NDArray[np.str_]) -> NDArray[np.bool_]:
    return np.array([guess.label == label for guess, label in zip(guesses, labels, strict=True)])


def _right_by_form(guesses: list[Guess], labels: NDArray[np.str_], predictor: Predictor) -> float:
    """The fraction that is right if another form of a character counts as the character."""
    families = dict(zip(predictor.classes.labels, family_numbers(predictor.classes.characters), strict=True))
    return float(
        np.mean([families[guess.label] == families[label] for guess, label in zip(guesses, labels, strict=True)])
    )


def _found(picture: bytes, where: str) -> NDArray[np.uint8]:
    """What is read of a picture; black if it is taken for blank, which no character is."""
    first = next(read_characters(picture, where))
    return np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8) if isinstance(first, InputError) else first
