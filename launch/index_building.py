"""What `kkanji neighbours` does once its options are known: features, index, settings, new characters."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from kkanji import checkpoint
from kkanji.checkpoint.lineage import proven_disjoint
from kkanji.checkpoint.load import load_trained
from kkanji.checkpoint.neighbours import Settings, has_neighbours, read_index, read_settings, write_with_neighbours
from kkanji.classes import LABEL, ClassMap, parse_label
from kkanji.data.training_set import class_map, open_set
from kkanji.environment import choose_kernels
from kkanji.inference.image_files import SUFFIXES, load_character
from kkanji.neighbours import made, unknown
from kkanji.neighbours.index import FILE, MOST_DIMENSIONS, Index, make_index, project
from kkanji.neighbours.mix_choice import MOST_NEIGHBOURS, choose_mix
from kkanji.neighbours.unknown import Unknown
from kkanji.neighbours.vote import Mix, WithNeighbours, features_of, logits_of, mixture, nearest, votes_of
from kkanji.pixels import normalise
from kkanji.variants import family_numbers
from kkanji.wording import counted
from shards import InputError, SplitReader

BATCH = 64  # images at a time: with 256, a core computed a third as many a second
MOST_CLUSTERED = 300  # images of a character whose clusters are found
MADE = 150  # images of each kind that show none of the model's characters
MOST_VALIDATED = 50_000  # validation images that settings are chosen and measured on


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A network on a device, with its folder."""

    path: Path
    network: nn.Module
    classes: ClassMap
    temperature: float
    device: torch.device

    @torch.inference_mode()
    def features(self, images: NDArray[np.uint8]) -> Tensor:
        """Features float16 [n, D] on the CPU of images [n, 64, 64]."""
        return torch.cat([features_of(self.network, batch).half().cpu() for batch in self.batches(images)])

    def batches(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Normalised images [B, 1, 64, 64] on the device."""
        for start in range(0, len(images), BATCH):
            yield normalise(torch.from_numpy(images[start : start + BATCH]).to(self.device)[:, None])


@dataclass(frozen=True, kw_only=True, slots=True)
class Half:
    """Half of the validation images."""

    images: NDArray[np.uint8]
    """[n, 64, 64]."""
    labels: Tensor
    """int64 [n]."""
    features: Tensor
    """float16 [n, D]."""


def open_model(path: Path) -> Model:
    """Load an exported model. Raises InputError as `load_trained` does."""
    choose_kernels(benchmark=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_trained(path).to(device).to(memory_format=torch.channels_last).eval()
    temperature = float(checkpoint.read_state(path).get("temperature", 1.0))
    return Model(
        path=path, network=network, classes=checkpoint.read_classes(path), temperature=temperature, device=device
    )


def index_set(
    path: Path, location: str, output: Path, *, settings_of: Path | None, parts: int, most: int, overwrite: bool
) -> None:
    """Make the index of a set's training images. Options as in `launch.neighbours.NeighboursConfig`."""
    model, data = open_model(path), open_set(location)
    width: Any = model.network.num_features
    dimensions = min(width, MOST_DIMENSIONS)
    if dimensions % parts:
        raise InputError(
            f"--bytes-per-vector {parts}: does not divide the index's {dimensions} dimensions; give 32 or 64"
        )
    numbers = _numbers(model.classes, class_map(data), location)
    settings = read_settings(settings_of) if settings_of else None
    validation = None if settings else _validation(model, data.split("val"), numbers)
    chosen = _first_of_each_original(data.split("train"))
    features, labels = _features(model, data.split("train"), chosen)
    index = make_index(features, numbers[labels], len(model.classes), parts=parts, most=most)
    said = f"`{FILE}`: {len(chosen):,} training images as {len(index.codes):,} vectors of {parts} bytes; "
    if settings is None and validation is not None:
        settings, found = _choose(model, index, *validation)
        said += found
    elif settings is not None:
        said += f"mixed as in {settings_of.resolve().name}: {_mix_text(settings.mix)}." if settings_of else ""
    assert settings is not None  # noqa: S101
    originals = data.split("train").sources()[chosen]
    write_with_neighbours(
        path, output, index=index, settings=settings, originals=originals, said=said, overwrite=overwrite
    )
    sys.stdout.write(f"{said}\n{output / FILE}: {(output / FILE).stat().st_size / 1e6:.2f} MB\n")


def _numbers(classes: ClassMap, own: ClassMap, location: str) -> Tensor:
    """The model's number of each of the set's classes, int64 [C]. Raises InputError for one that it lacks."""
    missing = [label for label, point in zip(own.labels, own.code_points, strict=True) if point not in classes.ids]
    if missing:
        found = f"{counted(len(missing), 'class')} that the model does not know, such as {missing[0]}"
        raise InputError(f"{location}: {found}; add their images with --images once the model has an index")
    return torch.tensor([classes.ids[point] for point in own.code_points])


def _first_of_each_original(reader: SplitReader) -> NDArray[np.int64]:
    """Positions of one image of each original, at most MOST_CLUSTERED of each class, by class and in random order."""
    sources, first = np.unique(reader.sources(), return_index=True)
    labels = reader.labels()[first]
    order = np.lexsort((sources, labels))  # ids are hashes, so the first ones of a class are a random choice
    starts = np.searchsorted(labels[order], labels[order])
    return first[order[np.arange(len(order)) - starts < MOST_CLUSTERED]]


def _features(model: Model, reader: SplitReader, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Features [n, D] and the set's labels [n] of images of a split; progress goes to stderr."""
    features, labels = [], []
    for start in range(0, len(positions), 32 * BATCH):
        part = reader.collect(positions[start : start + 32 * BATCH])
        features.append(model.features(part.images))
        labels.append(torch.from_numpy(part.labels.astype(np.int64)))
        sys.stderr.write(f"\r{min(start + 32 * BATCH, len(positions)):,} of {len(positions):,} images")
        sys.stderr.flush()
    sys.stderr.write("\n")
    return torch.cat(features), torch.cat(labels)


def _validation(model: Model, reader: SplitReader, numbers: Tensor) -> tuple[Half, Half]:
    """Two halves of the validation images: every other one. Raises InputError if the model was trained on them."""
    if reader.samples < 2:
        raise InputError("no validation images in the set; give the settings of another model as --settings-of")
    if not proven_disjoint(model.path, reader.sources()):
        found = f"{model.path}: not proven to be trained without the set's validation images"
        raise InputError(f"{found}; give the settings of a model that was as --settings-of")
    positions = np.linspace(0, reader.samples - 1, min(reader.samples, MOST_VALIDATED)).astype(np.int64)
    features, labels = _features(model, reader, positions)
    images = reader.collect(positions).images
    halves = [
        Half(images=images[part::2], labels=numbers[labels[part::2]], features=features[part::2]) for part in range(2)
    ]
    return halves[0], halves[1]


@torch.inference_mode()
def _choose(model: Model, index: Index, first: Half, second: Half) -> tuple[Settings, str]:
    """Settings chosen on the first half, and what they give on the second, as the card says it."""
    probabilities, cosines, neighbours = _compared(model, first, index)
    mix = choose_mix(probabilities, cosines, neighbours, first.labels)
    judge = _fit_unknown(model, WithNeighbours(model.network, index, mix, model.temperature), first)
    probabilities, cosines, neighbours = _compared(model, second, index)
    votes = votes_of(cosines[:, : mix.count], neighbours[:, : mix.count], mix.temperature, probabilities.shape[1])
    families = torch.from_numpy(family_numbers(model.classes.characters))
    texts = [
        f"top-1 {_right(each, second.labels):.2%} ({_right(each, second.labels, families):.2%} by family) {name}"
        for each, name in ((probabilities, "without them"), (mixture(probabilities, votes, mix.weight), "with them"))
    ]
    said = (
        f"{_mix_text(mix)}, chosen on half of the validation images. On the other half, {len(second.labels):,} images: "
    )
    return Settings(mix=mix, unknown=judge), f"{said}{', '.join(texts)}."


def _mix_text(mix: Mix) -> str:
    return f"the {mix.count} nearest vote, at temperature {mix.temperature:g}, with weight {mix.weight:g}"


def _compared(model: Model, half: Half, index: Index) -> tuple[Tensor, Tensor, Tensor]:
    """The network's probabilities [n, C], cosines [n, k] and classes [n, k] of the nearest neighbours."""
    logits = logits_of(model.network, half.features.float().to(model.device)).cpu()
    cosines, numbers = nearest(normalize(project(half.features, index.projection)), index.vectors(), MOST_NEIGHBOURS)
    return (logits / model.temperature).softmax(dim=1), cosines, index.labels()[numbers]


def _right(probabilities: Tensor, truth: Tensor, families: Tensor | None = None) -> float:
    predicted = probabilities.argmax(dim=1)
    if families is not None:
        predicted, truth = families[predicted], families[truth]
    return float((predicted == truth).float().mean())


def _fit_unknown(model: Model, reader: WithNeighbours, half: Half) -> Unknown:
    """The score that an image shows none of the model's characters, from this half and images made of it."""
    reader = reader.to(model.device).eval()
    few = slice(0, 4000)
    characters = describe(model, reader, half.images[few])
    others: dict[str, list[Tensor]] = {reason: [] for reason in unknown.REASONS}
    for kind, (reason, _) in made.KINDS.items():
        others[reason].append(describe(model, reader, made.make(half.images, kind, MADE, seed=0)))
    with torch.inference_mode(False):
        return unknown.fit(characters.clone(), {reason: torch.cat(parts) for reason, parts in others.items()})


@torch.inference_mode()
def describe(model: Model, reader: WithNeighbours, images: NDArray[np.uint8]) -> Tensor:
    """What the score is made of, [n, FEATURES], for images [n, 64, 64]."""
    parts = zip(model.batches(images), range(0, len(images), BATCH), strict=True)
    return torch.cat([unknown.describe(reader.read(batch), images[start : start + BATCH]) for batch, start in parts])


def add_images(path: Path, folder: Path, output: Path, *, overwrite: bool) -> None:
    """Add characters to a model with an index. Options as in `launch.neighbours.NeighboursConfig`."""
    if not has_neighbours(path):
        raise InputError(f"{path}: has no {FILE}; make it with `kkanji neighbours --checkpoint {path} --data SET`")
    model = open_model(path)
    images = {point: np.stack([load_character(file) for file in files]) for point, files in _by_character(folder)}
    features = {point: model.features(each) for point, each in images.items()}
    classes = model.classes.with_others(ClassMap(tuple(features)))
    labels = torch.cat([torch.full((len(each),), classes.ids[point]) for point, each in features.items()])
    index = read_index(path, model.network).with_images(torch.cat(list(features.values())), labels, len(classes))
    new = {point: features[point] for point in classes.code_points[len(model.classes) :]}
    said = f"{counted(len(labels), 'image')} of {counted(len(features), 'character')} added without training, "
    said += f"{len(new):,} of them new: {''.join(map(chr, new))[:60]}"
    originals = np.array([_id(image) for each in images.values() for image in each], np.uint64)
    write_with_neighbours(
        path,
        output,
        index=index,
        settings=read_settings(path),
        originals=originals,
        said=said,
        added=new,
        overwrite=overwrite,
    )
    sys.stdout.write(f"{said}\n")


def _by_character(folder: Path) -> Iterator[tuple[int, list[Path]]]:
    """Code point and image files of each folder of a character. Raises InputError if there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with a folder of images for each character")
    found = False
    for each in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(file for file in each.iterdir() if file.suffix.lower() in SUFFIXES)
        if files:
            found = True
            single = len(each.name) == 1 and not LABEL.fullmatch(each.name)
            yield (ord(each.name) if single else parse_label(each.name, str(each))), files
    if not found:
        raise InputError(f"{folder}: no images; expected a folder of images for each character, such as U+4E00")


def _id(image: NDArray[np.uint8]) -> int:
    """The id of an original, as `kkanji combine` gives it to the same pixels."""
    return int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8])
