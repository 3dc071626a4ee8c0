"""Choose how neighbours and network are mixed, on images that neither was made from."""

from itertools import product

from torch import Tensor
from torch.nn.functional import nll_loss

from kkanji.neighbours.vote import LEAST, Mix, mixture, votes_of

COUNTS = (5, 10, 20)
TEMPERATURES = (0.02, 0.03, 0.04, 0.06)
WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
MOST_NEIGHBOURS = max(COUNTS)


def choose_mix(probabilities: Tensor, cosines: Tensor, neighbours: Tensor, truth: Tensor) -> Mix:
    """The mix that is right most often; among equals, the one of the least cross-entropy.

    probabilities: the network's [n, C]. cosines, neighbours: of the MOST_NEIGHBOURS nearest training images, or of all
    if there are fewer, and their classes [n, k]. truth: the images' classes [n].
    """
    best, mix = (-1, 0.0), Mix()
    for count, temperature in product(COUNTS, TEMPERATURES):
        votes = votes_of(cosines[:, :count], neighbours[:, :count], temperature, probabilities.shape[1])
        for weight in WEIGHTS:
            mixed = mixture(probabilities, votes, weight)
            right = int((mixed.argmax(dim=1) == truth).sum())
            score = (right, -float(nll_loss(mixed.clamp(min=LEAST).log(), truth)))
            if score > best:
                best, mix = score, Mix(count=count, temperature=temperature, weight=weight)
    return mix
