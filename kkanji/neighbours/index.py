"""The index of a model folder: the features of training images, by class, and the file that holds them.

A feature is what the network gives its classifier. A character with many images has the means of clusters of their
features, which are right more often than as many images. In the index a feature has R numbers and the length 1: its D
numbers times `projection` float16 [D, R], so that products are cosines. `neighbours.safetensors` also holds `codebooks`
float16 [M, K, R / M] and `codes` uint8 [N, M] (see `quantise`) in the order of the classes, `counts` int32 [C], the
codes of each class, and what was added later: `added` float16 [A, R] and `added_labels` int32 [A].
"""

from dataclasses import dataclass, fields

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from kkanji.neighbours.quantise import decode, encode, k_means, learn_codebooks

FILE = "neighbours.safetensors"
LARGEST_BYTES = 1 << 30
MOST_DIMENSIONS = 128  # R: with all 512 of fused_m, neighbours were right as often
KINDS = {
    "projection": (torch.float16, 2),
    "codebooks": (torch.float16, 3),
    "codes": (torch.uint8, 2),
    "counts": (torch.int32, 1),
    "added": (torch.float16, 2),
    "added_labels": (torch.int32, 1),
}
"""Type and number of dimensions of each array in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Features of training images of C classes, N in codes and A as they are."""

    projection: Tensor
    """Onto the R directions in which the features are largest, float16 [D, R]."""
    codebooks: Tensor
    """float16 [M, K, R / M]."""
    codes: Tensor
    """uint8 [N, M], in the order of the classes."""
    counts: Tensor
    """Number of codes of each class, int32 [C]."""
    added: Tensor
    """float16 [A, R]."""
    added_labels: Tensor
    """Classes of the added features, int32 [A]."""

    def vectors(self) -> Tensor:
        """Projected features of length 1, float32 [N + A, R]."""
        return torch.cat([normalize(decode(self.codes, self.codebooks)), self.added.float()])

    def labels(self) -> Tensor:
        """Their classes, int64 [N + A]."""
        numbers = torch.arange(len(self.counts))
        return torch.cat([numbers.repeat_interleave(self.counts.long()), self.added_labels.long()])

    def with_images(self, features: Tensor, labels: Tensor, classes: int) -> "Index":
        """This index and features [n, D] of further images, of classes [n] below `classes`, which may be more."""
        more = torch.zeros(classes - len(self.counts), dtype=torch.int32)
        return Index(
            projection=self.projection,
            codebooks=self.codebooks,
            codes=self.codes,
            counts=torch.cat([self.counts, more]),
            added=torch.cat([self.added, normalize(project(features, self.projection)).half()]),
            added_labels=torch.cat([self.added_labels, labels.int()]),
        )

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return safetensors.torch.save({each.name: getattr(self, each.name).contiguous() for each in fields(self)})


def project(features: Tensor, projection: Tensor) -> Tensor:
    """What of features [n, D], of any length made 1, lies in an index's dimensions, float32 [n, R]: at most as long."""
    inside: Tensor = normalize(features.float()) @ projection.float()
    return inside


def _largest_directions(features: Tensor) -> Tensor:
    """The directions with the most of the features' squared length, float16 [D, R]."""
    unit = normalize(features.float())
    _, directions = torch.linalg.eigh(unit.T @ unit)  # the largest come last
    largest: Tensor = directions.flip(1)[:, :MOST_DIMENSIONS].half()
    return largest


def make_index(features: Tensor, labels: Tensor, classes: int, *, parts: int, most: int) -> Index:
    """The index of features [n, D], in random order, of images of classes [n].

    parts: bytes for each vector, a divisor of R. most: largest number of vectors of a class.
    """
    projection = _largest_directions(features)
    projected = normalize(project(features[labels.argsort(stable=True)], projection))
    groups = [
        normalize(k_means(group, most)) if len(group) > most else group
        for group in projected.split(labels.bincount(minlength=classes).tolist())
    ]
    vectors = torch.cat(groups)
    codebooks = learn_codebooks(vectors, parts).half()
    return Index(
        projection=projection,
        codebooks=codebooks,
        codes=encode(vectors, codebooks),
        counts=torch.tensor([len(group) for group in groups], dtype=torch.int32),
        added=torch.zeros(0, vectors.shape[1], dtype=torch.float16),
        added_labels=torch.zeros(0, dtype=torch.int32),
    )


def parse_index(data: bytes, *, classes: int, width: int) -> Index:
    """Read the content of a file. Raises ValueError, with what is wrong. width: D."""
    try:
        arrays = safetensors.torch.load(data)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"not a safetensors file ({str(error)[:80]})") from error
    found = {name: (array.dtype, array.ndim) for name, array in arrays.items()}
    if found != KINDS:
        raise ValueError(f"holds {str(found)[:160]}, expected {', '.join(KINDS)}")
    index = Index(**arrays)
    _check(index, classes, width)
    return index


def _check(index: Index, classes: int, width: int) -> None:
    parts, pieces, length = index.codebooks.shape
    dimensions = parts * length
    shape = tuple(index.projection.shape)
    _require(shape == (width, dimensions), f"a projection of shape {shape}, the network has {width:,} features")
    _require(index.codes.shape[1] == parts, f"codes of {index.codes.shape[1]} parts, codebooks of {parts}")
    _require(not len(index.codes) or int(index.codes.max()) < pieces, "a code beyond the codebook")
    _require(len(index.counts) == classes, f"counts of {len(index.counts):,} classes, the model has {classes:,}")
    _require(bool((index.counts >= 0).all()) and int(index.counts.sum()) == len(index.codes), "counts of other images")
    _require(
        index.added.shape == (len(index.added_labels), dimensions),
        f"added features of shape {tuple(index.added.shape)}",
    )
    inside = (index.added_labels >= 0) & (index.added_labels < classes)
    _require(bool(inside.all()), "an added image of no class")
    numbers = (index.projection, index.codebooks, index.added)
    _require(all(bool(each.isfinite().all()) for each in numbers), "what is not a number")
    _require(len(index.codes) + len(index.added) > 0, "no image")


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise ValueError(f"holds {found}")
