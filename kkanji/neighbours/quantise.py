"""Product quantisation: a vector of D numbers in M bytes, each of which names the nearest of 256 pieces.

Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, TPAMI 2011. D is divided into M parts, each with
a codebook of its own, found by k-means.
"""

import torch
from torch import Tensor

PIECES = 256  # in a codebook: as many as a byte can name
SAMPLE = 20_000  # vectors from which the codebooks are learnt: some 80 for each piece
ROUNDS = 10  # of k-means; after ten the mean error changed by less than 1 %
ROWS = 4096  # vectors compared with a codebook at a time


def learn_codebooks(vectors: Tensor, parts: int, *, seed: int = 0) -> Tensor:
    """Codebooks float32 [M, K, D / M] for vectors [N, D]; K is 256, or N if there are fewer vectors.

    parts: M, which divides D. With K = N every vector is a piece of its own, and nothing is lost.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(vectors), generator=generator)[:SAMPLE]
    sample = vectors[chosen].float()
    return torch.stack([k_means(part.contiguous(), PIECES) for part in sample.chunk(parts, dim=1)])


def k_means(vectors: Tensor, count: int) -> Tensor:
    """Means [K, d] of K = min(count, N) clusters of vectors [N, d], in random order: it begins with the first."""
    pieces = vectors[:count].clone()
    for _ in range(ROUNDS):
        nearest = _nearest(vectors, pieces)
        sums = torch.zeros_like(pieces).index_add_(0, nearest, vectors)
        counts = nearest.bincount(minlength=len(pieces))[:, None]
        pieces = torch.where(counts > 0, sums / counts.clamp(min=1), pieces)  # a piece of no vector stays
    return pieces


def encode(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """Codes uint8 [N, M] of vectors [N, D]: the nearest piece for each part."""
    parts = vectors.float().chunk(len(codebooks), dim=1)
    codes = [_nearest(part, pieces.float()) for part, pieces in zip(parts, codebooks, strict=True)]
    return torch.stack(codes, dim=1).to(torch.uint8)


def decode(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Vectors float32 [N, D] that codes [N, M] stand for."""
    columns = [pieces.float()[code.long()] for code, pieces in zip(codes.unbind(1), codebooks, strict=True)]
    return torch.cat(columns, dim=1)


def _nearest(vectors: Tensor, pieces: Tensor) -> Tensor:
    """Number of the nearest piece of each vector, int64 [N]."""
    half_squares = pieces.square().sum(dim=1) / 2
    return torch.cat([(rows @ pieces.T - half_squares).argmax(dim=1) for rows in vectors.split(ROWS)])
