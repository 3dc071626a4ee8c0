"""Networks in plain torch: timm's results, bit for bit, and only for weights that are wholly known."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kkanji.checkpoint.load import load_to_predict, load_trained
from kkanji.checkpoint.plain_network import NETWORKS, PlainNetwork, can_build, fingerprint
from kkanji.config import Head
from kkanji.models import FUSED_M_STAGES, FUSED_S_STAGES, create_model
from kkanji.pretrained import KUZUSHIJI_KANJI

ROOT = Path(__file__).parents[3]


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Means and variances are 0 and 1 at first, which would hide a wrong layer."""
    for name, value in network.named_buffers():
        if value.is_floating_point():
            nn.init.uniform_(value, *((0.5, 2) if name.endswith("var") else (-1, 1)))
    return network.eval()


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_those_of_timms_network(name: str, head: Head) -> None:
    torch.manual_seed(0)
    timm = with_random_statistics(create_model(name, 7, head))
    weights = timm.state_dict()
    assert can_build(name, head, weights, 7)
    plain = PlainNetwork(name, weights).eval()
    assert plain.num_features == timm.num_features
    for side, count in ((64, 3), (32, 1)):
        images = torch.randn(count, 1, side, side)
        with torch.inference_mode():
            assert torch.equal(plain(images), timm(images))
            maps = plain.forward_features(images)
            assert torch.equal(maps, timm.forward_features(images))  # type: ignore[operator]
            features = plain.forward_head(maps, pre_logits=True)
            assert torch.equal(features, timm.forward_head(maps, pre_logits=True))  # type: ignore[operator]
            assert torch.equal(plain.get_classifier()(features), plain(images))


def test_what_is_stored_of_the_networks_is_timms() -> None:
    stages = {"kkanji_efficientnet_fused_m": FUSED_M_STAGES, "kkanji_efficientnet_fused_s": FUSED_S_STAGES}
    for name, (strides, digest) in NETWORKS.items():
        assert fingerprint(create_model(name, 3).state_dict()) == digest
        assert [f"_s{stride}_" in stage for stride, stage in zip(strides, stages[name], strict=True)] == [True] * len(
            strides
        )


def test_other_weights_are_left_to_timm() -> None:
    """Which says what is wrong with them."""
    name = "kkanji_efficientnet_fused_s"
    weights = create_model(name, 3).state_dict()
    assert can_build(name, "linear", weights, 3)
    assert not can_build(name, "linear", weights, 4)
    assert not can_build(name, "cosine", weights, 3)
    assert not can_build("kkanji_efficientnet_fused_m", "linear", weights, 3)
    assert not can_build("kkanji_efficientnet_b0", "linear", create_model("kkanji_efficientnet_b0", 3).state_dict(), 3)
    first = next(iter(weights))
    assert not can_build(name, "linear", {key: value for key, value in weights.items() if key != first}, 3)
    assert not can_build(name, "linear", weights | {"more": weights[first]}, 3)
    assert not can_build(name, "linear", weights | {first: weights[first][:1]}, 3)
    assert not can_build(name, "linear", weights | {"classifier.bias": torch.zeros(())}, 3)


def test_the_embedded_model_is_the_same_either_way() -> None:
    plain, timm = load_to_predict(KUZUSHIJI_KANJI).eval(), load_trained(KUZUSHIJI_KANJI).eval()
    assert isinstance(plain, PlainNetwork)
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(plain(images), timm(images))


def test_predicting_imports_neither_timm_nor_what_it_imports() -> None:
    """Each of them costs a cold start a second or more."""
    code = (
        "import sys\nimport kkanji.inference.predict\nfrom kkanji.pretrained import KUZUSHIJI_KANJI\n"
        "import torch\nkkanji.inference.predict.Predictor(KUZUSHIJI_KANJI, torch.device('cpu'))\n"
        "print(*{'timm', 'torchvision', 'torch._dynamo', 'accelerate', 'matplotlib', 'numba'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == []
