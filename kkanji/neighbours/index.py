"""The index of a model folder: the features of training images, by class, and the file that holds them.

A feature is what the network gives its classifier, of length 1: products of features are cosines.
`neighbours.safetensors` holds `codebooks` float16 [M, K, D / M] and `codes` uint8 [N, M] (see `quantise`) in the order
of the classes, `counts` int32 [C], the codes of each class, and what was added later: `added` float16 [A, D] and
`added_labels` int32 [A].
"""

from dataclasses import dataclass, fields

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from kkanji.neighbours.quantise import decode, encode, learn_codebooks

FILE = "neighbours.safetensors"
LARGEST_BYTES = 1 << 30
KINDS = {
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

    codebooks: Tensor
    """float16 [M, K, D / M]."""
    codes: Tensor
    """uint8 [N, M], in the order of the classes."""
    counts: Tensor
    """Number of codes of each class, int32 [C]."""
    added: Tensor
    """float16 [A, D]."""
    added_labels: Tensor
    """Classes of the added features, int32 [A]."""

    def vectors(self) -> Tensor:
        """Features of length 1, float32 [N + A, D]."""
        return torch.cat([normalize(decode(self.codes, self.codebooks)), self.added.float()])

    def labels(self) -> Tensor:
        """Their classes, int64 [N + A]."""
        numbers = torch.arange(len(self.counts))
        return torch.cat([numbers.repeat_interleave(self.counts.long()), self.added_labels.long()])

    def with_images(self, features: Tensor, labels: Tensor, classes: int) -> "Index":
        """This index and features [n, D] of further images, of classes [n] below `classes`, which may be more."""
        more = torch.zeros(classes - len(self.counts), dtype=torch.int32)
        return Index(
            codebooks=self.codebooks,
            codes=self.codes,
            counts=torch.cat([self.counts, more]),
            added=torch.cat([self.added, normalize(features.float()).half()]),
            added_labels=torch.cat([self.added_labels, labels.int()]),
        )

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return safetensors.torch.save({each.name: getattr(self, each.name).contiguous() for each in fields(self)})


def make_index(features: Tensor, labels: Tensor, classes: int, *, parts: int) -> Index:
    """The index of features [N, D] of images of classes [N]. parts: bytes for each image, a divisor of D."""
    order = labels.argsort(stable=True)
    vectors = normalize(features.float()[order])
    codebooks = learn_codebooks(vectors, parts).half()
    return Index(
        codebooks=codebooks,
        codes=encode(vectors, codebooks),
        counts=labels.bincount(minlength=classes).int(),
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
    _require(parts * length == width, f"features of {parts * length:,} numbers, the network has {width:,}")
    _require(index.codes.shape[1] == parts, f"codes of {index.codes.shape[1]} parts, codebooks of {parts}")
    _require(not len(index.codes) or int(index.codes.max()) < pieces, "a code beyond the codebook")
    _require(len(index.counts) == classes, f"counts of {len(index.counts):,} classes, the model has {classes:,}")
    _require(bool((index.counts >= 0).all()) and int(index.counts.sum()) == len(index.codes), "counts of other images")
    _require(
        index.added.shape == (len(index.added_labels), width), f"added features of shape {tuple(index.added.shape)}"
    )
    inside = (index.added_labels >= 0) & (index.added_labels < classes)
    _require(bool(inside.all()), "an added image of no class")
    _require(bool(index.codebooks.isfinite().all() and index.added.isfinite().all()), "what is not a number")
    _require(len(index.codes) + len(index.added) > 0, "no image")


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise ValueError(f"holds {found}")
