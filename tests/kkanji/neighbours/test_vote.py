"""The votes of neighbours, their mixture with a network, and how it is chosen."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kkanji.neighbours.index import make_index
from kkanji.neighbours.mix_choice import choose_mix
from kkanji.neighbours.vote import Mix, WithNeighbours, nearest, votes_of


class Pixels(nn.Module):
    """A network whose features are the first four pixels, and whose classifier has equal logits for all 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(4, 3)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4]

    def forward_head(self, features: Tensor, *, pre_logits: bool) -> Tensor:
        assert pre_logits
        return features

    def get_classifier(self) -> nn.Module:
        return self.classifier


def image(*pixels: float) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float32).reshape(1, 1, 2, 2)


def test_the_nearest_by_cosine_vote_by_a_softmax_of_their_cosines() -> None:
    vectors = normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]))
    cosines, numbers = nearest(normalize(torch.tensor([[2.0, 0.1]])), vectors, 3)
    assert numbers.tolist() == [[0, 1, 2]] and cosines[0, 0] == pytest.approx(0.99875, abs=1e-4)
    votes = votes_of(cosines, torch.tensor([[7, 1, 7]]), 0.5, 8)
    weights = (cosines / 0.5).softmax(dim=1)[0]
    assert votes[0, 7] == pytest.approx(float(weights[0] + weights[2])) and votes.sum() == pytest.approx(1)


def test_a_network_with_neighbours_gives_the_logarithms_of_mixed_probabilities() -> None:
    features = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    index = make_index(features, torch.tensor([0, 1, 2]), 3, parts=2, most=50)
    model = WithNeighbours(Pixels(), index, Mix(count=1, temperature=0.1, weight=0.5), 1.0)
    with torch.inference_mode():
        probabilities, reading = model(image(0, 5, 0, 0)).exp(), model.read(image(0, 5, 0, 0))
    assert probabilities.tolist()[0] == pytest.approx([1 / 6, 1 / 2 + 1 / 6, 1 / 6])
    assert reading.cosines.shape == (1, 1) and reading.energy.tolist() == pytest.approx([1.0986123])
    alone = WithNeighbours(Pixels(), index, Mix(weight=0.0), 1.0)(image(0, 5, 0, 0)).exp()
    assert alone.tolist()[0] == pytest.approx([1 / 3] * 3)


def test_the_mix_is_the_one_that_is_right_most_often() -> None:
    """Where the network is always wrong and the nearest neighbour always right, neighbours get the largest weight."""
    truth = torch.arange(30) % 3
    network = torch.nn.functional.one_hot((truth + 1) % 3, 3) * 0.55 + 0.15
    cosines = torch.linspace(0.9, 0.5, 20).repeat(30, 1)
    right = choose_mix(network, cosines, truth[:, None].repeat(1, 20), truth)
    assert right.weight == 0.7  # the largest of those tried
    wrong = choose_mix(network.roll(-1, dims=1), cosines, (truth[:, None].repeat(1, 20) + 1) % 3, truth)
    assert wrong.weight == 0.0


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": 2.5}, {"temperature": 0.0}, {"weight": float("nan")}])
def test_settings_that_nobody_chooses_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 1000 of them"):
        Mix(**bad)  # type: ignore[arg-type]
