import pytest
import timm
import torch

from kkanji.models import SCALES, create_model
from shards import InputError

NAMES = [*(f"kkanji_efficientnet_{variant}" for variant in SCALES), "kkanji_efficientnet_fused_s"]


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=10).parameters())


def test_all_are_registered_with_timm() -> None:
    assert sorted(timm.list_models("kkanji*")) == sorted(NAMES)


@pytest.mark.parametrize("name", ["kkanji_efficientnet_b0", "kkanji_efficientnet_fused_s"])
def test_gray_in_classes_out_with_a_4x4_map(name: str) -> None:
    model = timm.create_model(name, num_classes=49).eval()
    images = torch.rand(2, 1, 64, 64)
    assert model(images).shape == (2, 49)
    assert model.forward_features(images).shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["kkanji_efficientnet_b0", "kkanji_efficientnet_fused_s"])
def test_features_only(name: str) -> None:
    model = timm.create_model(name, features_only=True)
    assert [feature.shape[-1] for feature in model(torch.rand(1, 1, 64, 64))] == [32, 16, 8, 4]
    assert model.feature_info.reduction() == [2, 4, 8, 16]


def test_every_scale_is_larger_than_the_one_before() -> None:
    """The original project's b1 equalled its b0: depths were rounded down."""
    sizes = [parameters(f"kkanji_efficientnet_{variant}") for variant in SCALES]
    assert sizes == sorted(set(sizes))


def test_widths_and_depths_are_the_published_ones() -> None:
    """EfficientNet-B3's stages (width 1.2, depth 1.4), as in the authors' code."""
    with torch.device("meta"):
        model = timm.create_model("kkanji_efficientnet_b3", num_classes=10)
    assert [len(stage) for stage in model.blocks] == [2, 3, 3, 5, 5, 6, 2]
    assert [stage[-1].conv_pwl.out_channels for stage in model.blocks[1:]] == [32, 48, 96, 136, 232, 384]
    assert model.num_features == 1536


def test_squeeze_excitation_is_there() -> None:
    model = create_model("kkanji_efficientnet_b0", 10)
    assert sum(type(module).__name__ == "SqueezeExcite" for module in model.modules()) == 16


def test_save_for_timm_and_load(tmp_path: str) -> None:
    from timm.models import save_for_hf  # its import reads configuration, which only this test needs

    model = timm.create_model("kkanji_efficientnet_fused_s", num_classes=7).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 1, 64, 64)
    assert torch.equal(model(images), again(images))


def test_other_names_are_refused_with_the_choice() -> None:
    with pytest.raises(InputError, match=r"resnet50: no such network; there are: kkanji_efficientnet_b0"):
        create_model("resnet50", 10)
