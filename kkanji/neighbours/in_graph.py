"""A network with its neighbours and the score of what is no character, of tensor operations alone: what ONNX can hold.

The same as `vote` and `unknown` give, from the index's codes: the file holds these, and a runtime decodes them once.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize

from kkanji.neighbours.index import Index, project
from kkanji.neighbours.quantise import decode
from kkanji.neighbours.unknown import INK, Unknown, of_reading
from kkanji.neighbours.vote import LEAST, Mix, Reading, features_of, logits_of, mixture, votes_of
from kkanji.pixels import normalise
from shards.format.layout import IMAGE_SIZE

# That join connected pixels; each about doubles the distance over which they are known to be connected. Noise, combs
# and a spiral as long as the image allows took at most 7.
ROUNDS = 10


class NeighbourClassifier(nn.Module):
    """Pixels to mixed probabilities, and where a score was fitted to it and to the probabilities of its reasons."""

    projection: Tensor
    codebooks: Tensor
    codes: Tensor
    added: Tensor
    labels: Tensor

    def __init__(self, model: nn.Module, index: Index, mix: Mix, temperature: float, unknown: Unknown | None) -> None:
        """temperature: divisor of the network's logits."""
        super().__init__()
        self.model, self.mix, self.temperature, self.unknown = model, mix, temperature, unknown
        for name in ("projection", "codebooks", "codes", "added"):
            self.register_buffer(name, getattr(index, name))
        self.register_buffer("labels", index.labels().int())
        self.outputs = ("probabilities", "unknown", "reasons") if unknown else ("probabilities",)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names, for images [B, 1, 64, 64], gray levels of white ink on black.

        probabilities: float32 [B, classes]. unknown: the score, float32 [B]. reasons: the parts of it, float32 [B, 3].
        """
        features = features_of(self.model, normalise(images))
        logits = logits_of(self.model, features)
        inside = project(features, self.projection)
        cosines, numbers = self._nearest(normalize(inside))
        votes = votes_of(cosines, self.labels[numbers].long(), self.mix.temperature, logits.shape[1])
        mixed = mixture((logits / self.temperature).softmax(dim=1), votes, self.mix.weight)
        if self.unknown is None:
            return (mixed,)
        lengths = (features.norm(dim=1), inside.norm(dim=1))
        reading = Reading(mixed.clamp(min=LEAST).log(), cosines, logits.logsumexp(dim=1), *lengths)
        described = torch.cat([of_reading(reading), ink_in_graph(images.to(torch.float32))], dim=1)
        weights = torch.tensor(self.unknown.weights)
        kinds = (described @ weights[:, :-1].T + weights[:, -1]).softmax(dim=1)
        return mixed, 1 - kinds[:, 0], kinds[:, 1:]

    def _nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and numbers of the nearest training images, [B, k] each."""
        vectors = torch.cat([normalize(decode(self.codes, self.codebooks)), self.added.float()])
        found = (features @ vectors.T).topk(min(self.mix.count, len(self.labels)), dim=1)
        return found.values, found.indices


def ink_in_graph(levels: Tensor) -> Tensor:
    """How the ink of images [B, 1, 64, 64] lies, float32 [B, 7]: as `unknown` has it."""
    ink = (levels >= INK).to(torch.float32)[:, 0]
    gray = ((levels > 32) & (levels < 224)).to(torch.float32)
    border = torch.cat([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], dim=1)
    across, down = ink.amax(dim=1), ink.amax(dim=2)
    columns = [
        ink.mean(dim=(1, 2)),
        gray.mean(dim=(1, 2, 3)),
        _parts(ink).log1p(),
        _runs(across),
        _runs(down),
        border.mean(dim=1),
        (across.mean(dim=1) - down.mean(dim=1)).abs(),
    ]
    return torch.stack(columns, dim=1)


def _runs(line: Tensor) -> Tensor:
    """Stretches of ones in lines [B, 64] of ones and zeros."""
    return line[:, 0] + (line[:, 1:] - line[:, :-1]).clamp(min=0).sum(dim=1)


def _parts(ink: Tensor) -> Tensor:
    """Number of connected parts, diagonals too, of masks [B, 64, 64].

    Every pixel points to one of its part with a larger number, at last all to the largest: Zhang, Azad, Hu: FastSV,
    SIAM PP 2020.
    """
    there = ink.flatten(1) > 0
    own = torch.arange(IMAGE_SIZE * IMAGE_SIZE) + torch.zeros_like(there, dtype=torch.int64)
    points = own
    for _ in range(ROUNDS):
        further = points.gather(1, points)
        marked = torch.where(there, further, -1).to(torch.float32)
        around = max_pool2d(marked.view(-1, 1, IMAGE_SIZE, IMAGE_SIZE), 3, stride=1, padding=1).flatten(1).long()
        around = torch.where(there, around, own)
        hooked = points.scatter_reduce(1, points, around, "amax")
        points = torch.maximum(torch.maximum(hooked, around), further)
    return (there & (points == own)).sum(dim=1).to(torch.float32)
