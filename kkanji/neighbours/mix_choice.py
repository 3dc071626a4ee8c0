"""Choose how neighbours and network are mixed, on images that neither was made from."""

from itertools import product

import torch
from torch import Tensor

from kkanji.neighbours.vote import LEAST, Mix, mixture

COUNTS = (5, 10, 20)
TEMPERATURES = (0.02, 0.03, 0.04, 0.06)
WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
MOST_NEIGHBOURS = max(COUNTS)


def choose_mix(probabilities: Tensor, cosines: Tensor, neighbours: Tensor, truth: Tensor) -> Mix:
    """The mix that is right most often; among equals, the one of the least cross-entropy.

    probabilities: the network's [n, C]. cosines, neighbours: of the MOST_NEIGHBOURS nearest training images, or of all
    if there are fewer, and their classes [n, k]. truth: the images' classes [n].
    """
    options = torch.cat([probabilities.argmax(dim=1, keepdim=True), neighbours], dim=1)  # no other class can win
    columns = torch.cat([options, truth[:, None]], dim=1)
    network, same = probabilities.gather(1, columns), columns[:, :, None] == neighbours[:, None, :]
    best, mix = (-1, 0.0), Mix()
    for count, temperature in product(COUNTS, TEMPERATURES):
        weights = (cosines[:, :count] / temperature).softmax(dim=1)
        votes = (same[:, :, :count] * weights[:, None]).sum(dim=2)
        for weight in WEIGHTS:
            mixed = mixture(network, votes, weight)
            predicted = options.gather(1, mixed[:, :-1].argmax(dim=1, keepdim=True))[:, 0]
            score = int((predicted == truth).sum()), float(mixed[:, -1].clamp(min=LEAST).log().mean())
            if score > best:
                best, mix = score, Mix(count=count, temperature=temperature, weight=weight)
    return mix
