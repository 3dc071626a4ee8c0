import torch

from kkanji.pixels import MEAN, STD, normalise


def test_levels_of_the_data_become_mean_0_and_deviation_1() -> None:
    images = torch.tensor([0, 255, 56], dtype=torch.uint8).reshape(3, 1, 1, 1)
    expected = torch.tensor([-MEAN / STD, (255 - MEAN) / STD, (56 - MEAN) / STD]).reshape(3, 1, 1, 1)
    result = normalise(images)
    assert result.dtype == torch.float32
    assert torch.allclose(result, expected)
    assert images[1] == 255  # not changed in place
