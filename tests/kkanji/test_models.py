from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from kkanji.inference.image_files import load_character
from kkanji.models import COSINE_SCALE, SCALES, CosineClassifier, EfficientNetFactory, create_model
from kkanji.pixels import normalise
from kkanji.pretrained import KUZUSHIJI_KANJI
from shards import InputError

SAMPLE = sorted((Path(__file__).parents[2] / "sample" / "kkanji2").glob("*/*.png"))

OURS = ["kkanji_efficientnet_fused_s", "kkanji_efficientnet_fused_m"]
NAMES = [*(f"kkanji_efficientnet_{variant}" for variant in SCALES), *OURS]


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=10).parameters())


def test_all_are_registered_with_timm() -> None:
    assert sorted(timm.list_models("kkanji*", module="models")) == sorted(NAMES)  # tests register others


@pytest.mark.parametrize("name", ["kkanji_efficientnet_b0", *OURS])
def test_gray_in_classes_out_with_a_4x4_map(name: str) -> None:
    model = timm.create_model(name, num_classes=49).eval()
    images = torch.rand(2, 1, 64, 64)
    assert model(images).shape == (2, 49)
    assert model.forward_features(images).shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["kkanji_efficientnet_b0", *OURS])
def test_features_only(name: str) -> None:
    model = timm.create_model(name, features_only=True)
    assert [feature.shape[-1] for feature in model(torch.rand(1, 1, 64, 64))] == [32, 16, 8, 4]
    assert model.feature_info.reduction() == [2, 4, 8, 16]


def test_every_scale_is_larger_than_the_one_before() -> None:
    """The legacy project's b1 equalled its b0: depths were rounded down."""
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


def test_a_cosine_head_looks_at_directions_only() -> None:
    model = create_model("kkanji_efficientnet_fused_s", 7, "cosine").eval()
    assert isinstance(model.classifier, CosineClassifier)
    features = torch.randn(3, 640)
    logits = model.classifier(features)
    assert logits.shape == (3, 7)
    assert logits.abs().max() <= COSINE_SCALE + 1e-4
    assert torch.allclose(model.classifier(features * 5), logits, atol=1e-4)
    with pytest.raises(ValueError, match="head='round'"):
        timm.create_model("kkanji_efficientnet_b0", head="round")


def test_pretrained_weights_come_with_the_package() -> None:
    """Half precision in the file, float32 in the model; another number of classes keeps all but the classifier."""
    stored = safetensors.torch.load_file(KUZUSHIJI_KANJI / "model.safetensors")
    model = timm.create_model("kkanji_efficientnet_fused_m", pretrained=True)
    assert model.num_classes == len(model.classifier.bias) == 3_832
    assert torch.equal(model.classifier.bias, stored["classifier.bias"].float())
    small = timm.create_model("kkanji_efficientnet_fused_m", pretrained=True, num_classes=10)
    assert torch.equal(small.conv_stem.weight, model.conv_stem.weight)


@pytest.mark.parametrize("name", ["kkanji_efficientnet_fused_m", f"local-dir:{KUZUSHIJI_KANJI}"])
@pytest.mark.parametrize("side", [64, 150])
def test_timms_own_transform_prepares_images_like_the_data_as_prediction_does(
    name: str, side: int, tmp_path: Path
) -> None:
    """By its own defaults timm cuts an eighth of each image off and resizes by another filter.

    It finds no ink in larger pictures, so these are only scaled here.
    """
    model = timm.create_model(name, pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    ours, theirs = [], []
    for number, path in enumerate(SAMPLE[::50]):
        image = Image.open(path).convert("L").resize((side, side))
        image.resize((64, 64), Image.Resampling.LANCZOS).save(tmp_path / f"{number}.png")
        ours.append(load_character(tmp_path / f"{number}.png"))
        theirs.append(transform(image))
    with torch.inference_mode():
        expected = model(normalise(torch.from_numpy(np.stack(ours))[:, None])).softmax(1)
        found = model(torch.stack(theirs)).softmax(1)
    assert len(SAMPLE[::50]) > 20 and torch.allclose(found, expected, atol=1e-4)
    assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_every_network_says_how_its_images_are_prepared(name: str) -> None:
    with torch.device("meta"):
        found = resolve_data_config({}, model=timm.create_model(name))
    assert found["input_size"] == (1, 64, 64) and found["crop_pct"] == 1.0 and found["interpolation"] == "lanczos"
    assert normalise(torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [(value - found["mean"][0]) / found["std"][0] for value in (0.0, 1.0)]
    )


def test_the_original_projects_names() -> None:
    model = EfficientNetFactory.create("b1", 12)
    size = EfficientNetFactory.get_input_size("b1")
    assert model(torch.rand(2, 1, size, size)).shape == (2, 12)
    with pytest.raises(InputError, match="b9: no such variant; there are: b0, b1"):
        EfficientNetFactory.get_input_size("b9")


def test_other_names_are_refused_with_the_choice() -> None:
    with pytest.raises(InputError, match=r"resnet50: no such network; there are: kkanji_efficientnet_b0"):
        create_model("resnet50", 10)
