"""Networks that begin with, or are made from, a checkpoint's weights."""

from pathlib import Path

import pytest
import torch

from kkanji import checkpoint
from kkanji.checkpoint.load import initial_weights, load_trained
from kkanji.classes import sorted_class_map
from kkanji.config import Head
from kkanji.models import create_model
from shards import InputError

KNOWN = sorted_class_map([0x4E00, 0x4E8C, 0x4E09])
NETWORK = "kkanji_efficientnet_fused_s"


def save(folder: Path, head: Head) -> Path:
    torch.manual_seed(0)
    model = create_model(NETWORK, len(KNOWN), head)
    state = {"config": {"model": NETWORK, "head": head}}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return checkpoint.save(folder, 1, model=model, optimizer=optimizer, state=state, classes=KNOWN, best=True)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_characters_are_matched_and_new_ones_keep_their_own_weights(tmp_path: Path, head: Head) -> None:
    path = save(tmp_path, head)
    trained = load_trained(path)
    torch.manual_seed(1)
    classes = sorted_class_map([0x4E8C, 0x3042, 0x4E00])  # two that are known, in another place, and one that is not
    model = create_model(NETWORK, len(classes), head).eval()
    images = torch.randn(2, 1, 64, 64)
    before = model.state_dict()["classifier.weight"].clone()
    initial_weights(path, model, classes)
    with torch.inference_mode():
        logits, expected = model(images), trained.eval()(images)
    for point in (0x4E00, 0x4E8C):
        assert torch.allclose(logits[:, classes.ids[point]], expected[:, KNOWN.ids[point]], atol=1e-5)
    unknown = classes.ids[0x3042]
    assert torch.equal(model.state_dict()["classifier.weight"][unknown], before[unknown])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "cosine")
    with pytest.raises(InputError, match=r"--init .*weights of kkanji_efficientnet_fused_s do not fit"):
        initial_weights(path, create_model(NETWORK, 3, "linear"), KNOWN)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        initial_weights(tmp_path / "absent", create_model(NETWORK, 3), KNOWN)
